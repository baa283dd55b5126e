"""The whole page: its header and its tabs."""

import json
from collections.abc import Callable

import gradio as gr

from nora_studio.app.pages import adapters, compare, history, scores, train, watch
from nora_studio.app.pages.escaping import escaped
from nora_studio.app.pages.number_field import SCRIPT
from nora_studio.app.pages.shared import POLL_SECONDS, SharedState, TabContext
from nora_studio.app.server.studio import Studio

TABS: tuple[tuple[str, str, Callable[[Studio, SharedState, TabContext], None]], ...] = (
    ("train", "Train", train.build),
    ("watch", "Watch", watch.build),
    ("compare", "Compare", compare.build),
    ("adapters", "Adapters", adapters.build),
    ("scores", "Scores", scores.build),
    ("history", "History", history.build),
)
FIRST_TAB = "train"
MAX_SESSIONS = 64
"""Pages whose state is kept, the most recently used ones. Gradio copies the page's configuration
(about a megabyte) for each load, and keeps ten thousand by default. An open page sends a request
every 1.5 s, so it stays among them; a page that was dropped loses its selections."""
LOGO = """<svg viewBox="0 0 32 32" aria-hidden="true" fill="none" stroke-width="2.4">
<rect x="2" y="2" width="28" height="28" rx="7" stroke="var(--line-strong)"/>
<rect x="7.5" y="7.5" width="17" height="17" rx="4.5" stroke="var(--lora)"/>
<rect x="12.6" y="12.6" width="6.8" height="6.8" rx="2" fill="var(--nora)" stroke="var(--nora)"/>
</svg>"""
TOGGLE_THEME = """
element.addEventListener('click', (event) => {
  if (!event.target.closest('[data-turn]')) return;
  const dark = document.body.classList.toggle('dark');
  try { localStorage.setItem('nora-studio-mode', dark ? 'dark' : 'light'); } catch (_) {}
});
"""
SWITCH_TIMERS = """
async () => {
  await new Promise((done) => setTimeout(done, 50));
  const isOpen = (name) =>
    document.getElementById(`tab-${name}-button`)?.getAttribute('aria-selected') === 'true';
  return %s.map((name) => ({__type__: 'update', active: isOpen(name)}));
}
""" % json.dumps([name for name, _, _ in TABS])  # noqa: UP031
"""Runs the open tab's timer only. It reads which tab is open: the first tab's select event is sent
while the page loads, and may arrive after that of a tab that was clicked at once."""
HEAD = """<script>
(() => {
  let mode = null;
  try { mode = localStorage.getItem('nora-studio-mode'); } catch (_) {}
  const wanted = mode || (matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light');
  const set = () => document.body && document.body.classList.toggle('dark', wanted === 'dark');
  addEventListener('DOMContentLoaded', () => { set(); setTimeout(set, 300); });
})();
</script>"""
"""Sets light or dark mode, as last chosen, before the first paint."""
HEAD += SCRIPT


def build_page(studio: Studio) -> gr.Blocks:
    """Build the page of a studio."""
    with gr.Blocks(title="NoRA Studio", analytics_enabled=False) as page:
        page.state_session_capacity = MAX_SESSIONS
        head = gr.HTML(_head(None), js_on_load=TOGGLE_THEME, elem_id="head")
        # Outside of gr.Tabs, where they would count as tabs.
        states = gr.State(""), gr.State([]), gr.State([]), gr.State("")
        timers = {name: gr.Timer(POLL_SECONDS, active=name == FIRST_TAB) for name, _, _ in TABS}
        with gr.Tabs(selected=FIRST_TAB, elem_id="tabs", overflow_behavior="wrap") as tabs:
            shared = SharedState(page, tabs, *states)
            for name, label, build in TABS:
                with gr.Tab(label, id=name, elem_id=f"tab-{name}") as tab:
                    build(studio, shared, TabContext(tab, timers[name]))
                tab.select(None, None, list(timers.values()), js=SWITCH_TIMERS)

        def update_head(request: gr.Request) -> str:
            return _head(studio.auth.account(request.headers))

        page.load(update_head, None, head, api_visibility="private", show_progress="hidden")
    return page


def _head(account: str | None) -> str:
    who = ""
    if account is not None:
        who = (
            f'<span>{escaped(account)}</span><form method="post" action="/logout">'
            "<button>Log out</button></form>"
        )
    return (
        f'<header class="masthead">{LOGO}<b>NoRA Studio</b>'
        '<span class="what">Teach an image model one subject from a few photos</span>'
        f'<span class="who">{who}<button data-turn title="Light or dark">◐</button></span>'
        "</header>"
    )
