"""The studio's theme: Gradio's base theme with the colours of `studio.css`."""

from pathlib import Path

import gradio as gr

CSS = Path(__file__).with_name("studio.css")
_SYSTEM = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif")
_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")


def theme() -> gr.themes.Base:
    """Return Gradio's base theme with our CSS variables, which differ by light and dark mode."""
    both = {f"{name}{mode}": value for name, value in _COLOURS.items() for mode in ("", "_dark")}
    return gr.themes.Base(
        font=list(_SYSTEM),
        font_mono=list(_MONO),
        radius_size=gr.themes.sizes.radius_md,
        spacing_size=gr.themes.sizes.spacing_md,
        text_size=gr.themes.sizes.text_md,
    ).set(**both, **_SHAPES)


_COLOURS = {
    "body_background_fill": "var(--ground)",
    "body_text_color": "var(--ink)",
    "body_text_color_subdued": "var(--soft)",
    "background_fill_primary": "var(--card)",
    "background_fill_secondary": "var(--ground)",
    "border_color_primary": "var(--line)",
    "border_color_accent": "var(--accent)",
    "color_accent_soft": "var(--wash)",
    "link_text_color": "var(--accent)",
    "link_text_color_hover": "var(--accent-strong)",
    "link_text_color_visited": "var(--accent)",
    "block_background_fill": "var(--card)",
    "block_border_color": "var(--line)",
    "block_label_background_fill": "transparent",
    "block_label_text_color": "var(--soft)",
    "block_title_text_color": "var(--ink)",
    "block_info_text_color": "var(--soft)",
    "panel_background_fill": "var(--card)",
    "panel_border_color": "var(--line)",
    "input_background_fill": "var(--field)",
    "input_background_fill_focus": "var(--field)",
    "input_border_color": "var(--line)",
    "input_border_color_focus": "var(--accent)",
    "input_placeholder_color": "var(--faint)",
    "checkbox_background_color": "var(--field)",
    "checkbox_background_color_selected": "var(--accent)",
    "checkbox_border_color": "var(--line-strong)",
    "checkbox_border_color_selected": "var(--accent)",
    "checkbox_label_background_fill": "var(--card)",
    "checkbox_label_background_fill_selected": "var(--wash)",
    "checkbox_label_text_color": "var(--ink)",
    "checkbox_label_text_color_selected": "var(--ink)",
    "checkbox_label_border_color": "var(--line)",
    "checkbox_label_border_color_selected": "var(--accent)",
    "button_primary_background_fill": "var(--accent)",
    "button_primary_background_fill_hover": "var(--accent-strong)",
    "button_primary_text_color": "var(--on-accent)",
    "button_primary_border_color": "var(--accent)",
    "button_secondary_background_fill": "var(--card)",
    "button_secondary_background_fill_hover": "var(--wash)",
    "button_secondary_text_color": "var(--ink)",
    "button_secondary_border_color": "var(--line-strong)",
    "button_cancel_background_fill": "var(--card)",
    "button_cancel_background_fill_hover": "var(--wash)",
    "button_cancel_text_color": "var(--bad)",
    "button_cancel_border_color": "var(--bad)",
    "slider_color": "var(--accent)",
    "table_border_color": "var(--line)",
    "table_even_background_fill": "var(--card)",
    "table_odd_background_fill": "var(--card)",
    "table_text_color": "var(--ink)",
    "accordion_text_color": "var(--ink)",
    "error_background_fill": "var(--card)",
    "error_text_color": "var(--bad)",
    "error_border_color": "var(--bad)",
    "error_icon_color": "var(--bad)",
    "stat_background_fill": "var(--wash)",
    "loader_color": "var(--accent)",
    "code_background_fill": "var(--field)",
    "block_shadow": "none",
    "block_border_width": "1px",
    "input_border_width": "1px",
    "button_border_width": "1px",
    "checkbox_label_border_width": "1px",
}
_SHAPES = {
    "shadow_drop": "none",
    "block_radius": "0.7rem",
    "button_large_radius": "0.6rem",
    "button_medium_radius": "0.6rem",
    "button_small_radius": "0.5rem",
    "block_title_text_weight": "550",
    "block_label_text_size": "*text_sm",
}
"""Settings without a dark version."""


def css() -> str:
    """Return all style sheets in this folder."""
    return "\n".join(file.read_text("utf-8") for file in sorted(CSS.parent.glob("*.css")))
