"""A page of drawn photos to review, and answers on it."""

from pathlib import Path

from pipeline.review import photo_review
from pipeline.system import command_line, html_templates
from tests.support import drawn_photos

TEMPLATE = """{% from "photo_page.html" import page_end %}
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none';
 img-src data:; style-src 'unsafe-inline'; script-src {{ script_hash }}">
<title>review</title>
<link rel="icon" href="data:,">
<style>
body { font: 16px sans-serif; margin: 1rem; }
ul { display: grid; gap: 1rem; list-style: none; padding: 0;
  grid-template-columns: repeat(auto-fill, minmax(10rem, 1fr)); }
.picture img { height: auto; max-width: 100%; }
.scroll { overflow-x: auto; }
td { padding: 1rem; }
{{ style }}
</style>
</head>
<body>
<div class="scroll"><table><tr>{% for n in range(20) %}<td>{{ n }}</td>{% endfor %}
</tr></table></div>
<ul>
{% for photo in shown %}
<li {{ review.mark(photo.path, label=photo.label, sha256=photo.sha256,
  suggested=photo.suggested) }}>
<div class="picture"><img data-photo="{{ photo.picture }}" width="160" height="120"
 alt="{{ photo.path }}"></div>
<p>{{ photo.path }}</p>
</li>
{% endfor %}
</ul>
{{ page_end(pictures, review, script) }}</body>
</html>
"""


def write(folder: Path, photos, class_names, *, pictures=None, **how):
    """Write page.html; `photos` are dicts of path, label, suggested and sha256."""
    template = folder / "page-template.html"
    template.write_text(TEMPLATE, encoding="utf-8")
    review = photo_review.PhotoReview(
        key=how.pop("key", "some-data"),
        class_names=class_names,
        command="python -m pipeline.convert SRC --corrections=corrections.csv",
        **how,
    )
    if pictures is None:
        picture = html_templates.picture_url(drawn_photos.encode_photo())
        pictures = {str(number): picture for number in range(len(photos))}
    defaults = {"label": "", "suggested": "", "sha256": ""}
    text = html_templates.load_template(template, photo_review.TEMPLATES).render(
        **photo_review.assets(),
        review=review,
        pictures=pictures,
        shown=[
            {**defaults, "picture": str(number)} | photo
            for number, photo in enumerate(photos)
        ],
    )
    page = folder / "page.html"
    page.write_text(command_line.as_utf8(text), encoding="utf-8")
    return page
