"""The live page: what is in the file."""

import base64
import hashlib
import json
import re

from hrnet_d2.pages import build_page
from hrnet_d2.serving import Category, Limits
from hrnet_d2.serving.page import build_live_page
from tests.serving.servers import fake_model, serving

HOSTILE = "</script><img src=x onerror=alert(1)>&\"'\u2028{{SCRIPT}}"


def digest(text):
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def test_the_page_is_one_file_that_runs_its_own_script_only():
    with serving(fake_model()) as client:
        answer = client.get("/")
    html, policy = answer.body.decode(), answer.headers["Content-Security-Policy"]
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.S)
    (style,) = re.findall(r"<style>(.*?)</style>", html, re.S)
    assert f"script-src '{digest(script)}'" in policy and f"style-src '{digest(style)}'" in policy
    assert "unsafe" not in policy and "http:" not in policy and "https:" not in policy
    assert policy.startswith("default-src 'none'; img-src blob:; connect-src 'self'")
    # Nothing is loaded from anywhere, and no markup has code or style of its own.
    assert not re.search(r"<(link|iframe|object|embed|base)\b|\bsrc=|@import|url\(", html)
    assert not re.search(r"<[a-z][^>]*\s(on\w+|style)=", html[: html.index("<script")])


def test_names_are_text_whatever_is_in_them():
    model = fake_model(categories=(Category(1, HOSTILE),), name=HOSTILE)
    html = build_live_page(model, Limits()).html
    assert "<img src=x" not in html and html.count("</script>") == 2
    (data,) = re.findall(r'id="data">(.*?)</script>', html, re.S)
    assert json.loads(data)["classes"] == [HOSTILE]
    assert "&lt;/script&gt;&lt;img" in html


def test_limits_are_told():
    html = build_live_page(fake_model(), Limits(image_bytes=1234)).html
    (data,) = re.findall(r'id="data">(.*?)</script>', html, re.S)
    assert json.loads(data)["imageBytes"] == 1234
    assert "JPEG" in json.loads(data)["formats"]


def test_pages_of_the_package_share_their_style():
    one = build_live_page(fake_model(), Limits()).html
    other = build_page(
        "hrnet_d2.evaluation.report", (), (), texts={"TITLE": ""},
        data={"DATA": 1, "PICTURES": 2}, sources="img-src data:",
    ).html  # fmt: skip
    shared = ':root[data-theme="dark"] {'
    assert shared in one and shared in other
