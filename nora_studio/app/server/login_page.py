"""The pages outside the app: the login page, and one that reloads itself."""

from html import escape

LOGIN = "/login"
LOGOUT = "/logout"

RELOAD_PAGE = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>NoRA Studio</title>'
    '<meta http-equiv="refresh" content="0"><meta name="color-scheme" content="light dark">'
    "<body></body></html>"
)
"""For a link from another site: the reload sends the cookies that the browser withheld."""

_STYLE = """
:root { color-scheme: light dark; --ground: #f6f4ef; --card: #fffdf9; --ink: #23211e;
  --soft: #6d675f; --line: #e2ddd2; --accent: #a4502f; --on-accent: #fffdf9; --field: #ffffff; }
@media (prefers-color-scheme: dark) { :root { --ground: #181715; --card: #211f1c; --ink: #ece8e1;
  --soft: #a8a196; --line: #37332d; --accent: #e59a76; --on-accent: #211510; --field: #181715; } }
* { box-sizing: border-box; }
body { margin: 0; min-height: 100vh; display: grid; place-items: center; padding: 24px 16px;
  background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { width: 100%; max-width: 380px; }
h1 { margin: 0; font-size: 28px; font-weight: 600; letter-spacing: -0.015em; }
h1 em { font-style: normal; color: var(--accent); }
.lead { margin: 4px 0 24px; color: var(--soft); }
form { background: var(--card); border: 1px solid var(--line); border-radius: 14px;
  padding: 24px; display: grid; gap: 6px; }
label { font-size: 14px; font-weight: 500; }
input { width: 100%; min-height: 44px; margin-bottom: 12px; padding: 8px 12px; font: inherit;
  color: inherit; background: var(--field); border: 1px solid var(--line); border-radius: 8px; }
button { min-height: 44px; margin-top: 4px; font: inherit; font-weight: 600; cursor: pointer;
  color: var(--on-accent); background: var(--accent); border: 0; border-radius: 8px; }
button:hover { filter: brightness(1.06); }
input:focus-visible, button:focus-visible { outline: 2px solid var(--accent);
  outline-offset: 2px; }
.problem { min-height: 24px; margin: 0 0 6px; color: var(--accent); font-size: 14px; }
"""


def login_page(problem: str = "", next_path: str = "", name: str = "") -> str:
    """Return the login page's HTML.

    Args:
        problem: The error of the last attempt; empty at first.
        next_path: Path to open after the login.
        name: The account's name as it was typed.
    """
    focus = ("", " autofocus") if name else (" autofocus", "")
    alert = f'<p class="problem" role="alert">{escape(problem)}</p>' if problem else ""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Log in - NoRA Studio</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,"><style>{_STYLE}</style></head>
<body><main>
<h1><em>NoRA</em> Studio</h1>
<p class="lead">Log in to see your photos, runs and images.</p>
<form method="post" action="{LOGIN}">{alert}
<input type="hidden" name="next" value="{escape(next_path)}">
<label for="username">Name</label>
<input id="username" name="username" autocomplete="username" autocapitalize="none"
  spellcheck="false" maxlength="64" required value="{escape(name)}"{focus[0]}>
<label for="password">Password</label>
<input id="password" name="password" type="password" autocomplete="current-password"
  maxlength="256" required{focus[1]}>
<button>Log in</button>
</form></main></body></html>
"""
