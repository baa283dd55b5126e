"""The shipped subjects as cards."""

import base64
import io

from PIL import Image

from nora_studio.app.pages.escaping import escaped
from nora_studio.mini.shipped import ShippedSubject, shipped_subjects
from nora_studio.photos.images import list_photos

SIDE = 96


def example_cards() -> str:
    """Return a card for each subject, with its thumbnail embedded in the page."""
    cards = []
    for name in shipped_subjects():
        subject = ShippedSubject.load(name)
        with Image.open(list_photos(subject.folder / "photos")[0]) as photo:
            small = photo.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        stream = io.BytesIO()
        small.save(stream, "JPEG", quality=80)
        data = base64.b64encode(stream.getvalue()).decode()
        cards.append(
            f'<button class="example" data-act="example" data-subject="{escaped(name)}" '
            f'title="{escaped(subject.description)}">'
            f'<img alt="" width="{SIDE}" height="{SIDE}" '
            f'src="data:image/jpeg;base64,{data}"><span>{escaped(subject.class_word)}</span>'
            "</button>"
        )
    return f'<div class="examples">{"".join(cards)}</div>'
