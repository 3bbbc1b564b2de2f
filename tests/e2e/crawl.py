"""Visits the pages that links lead to, and says which of the gateway's routes were asked."""

import html
import re
from collections import defaultdict, deque
from urllib.parse import urljoin, urlsplit

from django.urls import Resolver404, URLResolver, get_resolver, resolve

LINK = re.compile(r'(?:href|action|src|data-[a-z-]*url)="([^"#]+)')
HIDDEN = re.compile(r'<input type="hidden" name="([^"]+)" value="([^"]*)"')
# Of each page with an address of its own, and of its filters and orders.
PAGES_MAX = 10
QUERIES_MAX = 2
# A log-out ends the crawl; static files hold nothing of anybody.
LEFT_OUT = re.compile(r"/admin/logout/|/static/")


def all_routes():
    """The patterns of all addresses, as `resolve` names them."""
    return set(_routes(get_resolver(), ""))


def _routes(resolver, prefix):
    for pattern in resolver.url_patterns:
        route = prefix + str(pattern.pattern).removeprefix("^")
        if isinstance(pattern, URLResolver):
            yield from _routes(pattern, route)
        else:
            yield route


def route_of(path):
    try:
        return resolve(path).route
    except Resolver404:
        return None


def log_in(client, *, username, password):
    """By the form, as a person does."""
    page = client.get("/admin/login/?next=/admin/")
    form = {**dict(HIDDEN.findall(page.text)), "username": username, "password": password}
    answer = client.post("/admin/login/?next=/admin/", data=form)
    assert answer.url.path == "/admin/", re.findall(r'<p class="errornote">(.*?)</p>', answer.text, re.DOTALL)


def crawl(client, *, starts):
    """By address: headers and body of each page, from these on; `client` follows redirects."""
    queue, known, counts, found = deque(starts), set(starts), defaultdict(int), {}
    while queue:
        address = queue.popleft()
        answer = client.get(address)
        found[address] = b"\n".join([repr(answer.headers.multi_items()).encode(), answer.content])
        if not answer.headers.get("content-type", "").startswith("text/html"):
            continue
        for link in LINK.findall(answer.text):
            parts = urlsplit(urljoin(str(answer.url), html.unescape(link)))
            linked = f"{parts.path}?{parts.query}" if parts.query else parts.path
            is_ours = parts.netloc == urlsplit(str(client.base_url)).netloc
            if not is_ours or linked in known or LEFT_OUT.match(parts.path):
                continue
            kind = (route_of(parts.path), bool(parts.query))
            counts[kind] += 1
            if counts[kind] <= (QUERIES_MAX if parts.query else PAGES_MAX):
                known.add(linked)
                queue.append(linked)
    return found
