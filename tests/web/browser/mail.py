"""Mail that is looked at: what people send, and what would like to do something in the browser."""

from __future__ import annotations

from email.message import EmailMessage


def letter(
    subject: str, *, html: str = "", text: str = "Dear Bob,\n\nhere is what you asked for.\n", file: bool = False
) -> bytes:
    mail = EmailMessage()
    mail["From"] = "Ann Lee <ann@example.com>"
    mail["To"] = "Bob <bob@example.org>"
    mail["Subject"] = subject
    mail.set_content(text)
    if html:
        mail.add_alternative(html, subtype="html")
    if file:
        mail.add_attachment(b"%PDF-1.4 a file", "application", "pdf", filename="invoice-42.pdf")
    return mail.as_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


NEWSLETTER = """<html><body><h1>Your order</h1><p>It is <b>on its way</b>, and will be there on Friday.</p>
<table><tr><td>Paper, A4</td><td>3</td></tr><tr><td>Ink</td><td>1</td></tr></table></body></html>"""


def hostile(remote: str) -> str:
    """Every way to run something, or to fetch something from `remote`. What runs would say so in the title of the page."""
    ran = "top.document.title='ran';parent.document.title='ran';document.title='ran';alert('ran')"
    return f"""<html><head>
<base href="{remote}/base/">
<meta http-equiv="refresh" content="0;url={remote}/refresh">
<link rel="stylesheet" href="{remote}/style.css"><link rel="preconnect" href="{remote}">
<link rel="prefetch" href="{remote}/prefetch">
<style>@import url({remote}/import.css); @font-face {{ font-family: f; src: url({remote}/font.woff) }}
body {{ background: url({remote}/ground.png); font-family: f }}</style>
<script>{ran}</script><script src="{remote}/script.js"></script></head>
<body onload="{ran}"><p id="seen">The text of the mail</p>
<img src="{remote}/pixel.png" srcset="{remote}/pixel2.png 2x"><img src="x" onerror="{ran}">
<svg onload="{ran}"><image href="{remote}/svg.png" /><use href="{remote}/use.svg#a" /><script>{ran}</script></svg>
<iframe src="{remote}/frame"></iframe><iframe srcdoc="<script>{ran}</script><img src='{remote}/srcdoc.png'>"></iframe>
<object data="{remote}/object"></object><embed src="{remote}/embed">
<video src="{remote}/video" poster="{remote}/poster.png" autoplay></video><audio src="{remote}/audio" autoplay></audio>
<input type="image" src="{remote}/input.png"><table background="{remote}/table.png"><tr><td>x</td></tr></table>
<a id="js" href="javascript:{ran}">a link that is script</a>
<form id="form" action="{remote}/form" method="post"><input name="a" value="b"><button id="go">send</button></form>
<details open ontoggle="{ran}"><summary>x</summary></details><marquee onstart="{ran}">x</marquee>
<input autofocus onfocus="{ran}">
</body></html>"""
