"""Links, names of tests and keys, and the width of lines."""

import re
from urllib.parse import urlsplit

import pytest
from detectron2.config import CfgNode, get_cfg

from hrnet_d2 import add_hrnet_config
from tests.docs.pages import HANDBOOK, OTHERS, PAGES, ROOT, anchors, code_spans, links

WIDEST = 140


def name(page) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links(page):
    """Files and headings exist; addresses are well-formed (they are not fetched)."""
    for target in links(page):
        address = urlsplit(target)
        if address.scheme:
            assert address.scheme in ("https", "http") and address.hostname, target
            assert "." in address.hostname and address.username is None, target
            continue
        path = (page.parent / address.path).resolve() if address.path else page
        assert path.exists(), f"{name(page)} links to {target}, which does not exist"
        assert path.is_relative_to(ROOT), target
        if address.fragment:
            assert address.fragment in anchors(path), f"{name(page)}: no heading for {target}"


@pytest.mark.parametrize("page", HANDBOOK, ids=name)
def test_the_handbook_links_to_its_own_pages_only(page):
    """Sphinx renders nothing else, so such a link would be broken in the built pages."""
    local = [target for target in links(page) if not urlsplit(target).scheme]
    for target in local:
        path = (page.parent / urlsplit(target).path).resolve()
        assert path.is_relative_to(ROOT / "docs"), target


def test_every_page_of_the_handbook_is_in_its_contents():
    listed = re.findall(r"^(\w+)$", (ROOT / "docs" / "index.md").read_text(), re.MULTILINE)
    assert sorted([*listed, "index"]) == sorted(page.stem for page in HANDBOOK)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_tests_that_are_named_exist(page):
    for span in code_spans(page):
        match = re.fullmatch(r"(tests/[\w/.]+\.py)(?:::(\w+))?", span)
        if match is None:
            continue
        path = ROOT / match[1]
        assert path.is_file(), f"{name(page)} names {span}"
        if match[2]:
            text = path.read_text(encoding="utf-8")
            assert re.search(rf"^def {match[2]}\(", text, re.MULTILINE), f"{name(page)}: {span}"


def test_the_page_of_differences_names_tests():
    spans = code_spans(ROOT / "docs" / "exactness.md")
    assert sum(span.startswith("tests/") and "::" in span for span in spans) > 40


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_keys_that_are_named_exist(page):
    cfg = get_cfg()
    add_hrnet_config(cfg)
    for span in code_spans(page):
        match = re.fullmatch(r"((?:[A-Z][A-Z0-9_]*\.)+[A-Z][A-Z0-9_]*)(\.\*)?(?: .+)?", span)
        if match is None or re.search(r"\.(md|MD)\b", span):
            continue
        node = cfg
        for part in match[1].split("."):
            assert isinstance(node, CfgNode) and part in node, f"{name(page)} names the key {span}"
            node = node[part]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_lines_are_not_too_wide(page):
    """Except addresses in link definitions, which cannot be broken."""
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if re.fullmatch(r"\[[^\]]+\]: \S+", line):
            continue
        assert len(line) <= WIDEST, f"{name(page)}:{number} has {len(line)} columns"


@pytest.mark.parametrize("page", [*HANDBOOK, *OTHERS], ids=name)
def test_plain_words(page):
    text = page.read_text(encoding="utf-8")
    unwanted = r"\b(?:tr[u]nk|a[f]resh|stands b[e]side|goes [o]n from|optimis|normalis)\w*"
    found = re.findall(unwanted, text)
    assert not found, f"{name(page)}: {found}"
