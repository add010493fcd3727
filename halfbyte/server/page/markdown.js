"use strict";
// Markdown as DOM nodes. Only elements that are named here can come of a model's text, and only as nodes: no HTML is
// ever parsed. Addresses of links are http, https or mailto; images are links, so that nothing is fetched.

const Markdown = (() => {
  function element(tag, className, ...children) {
    const node = document.createElement(tag);
    if (className) node.className = className;
    node.append(...children);
    return node;
  }

  function inline(text) {
    return MarkdownInline.parse(text).map(inlineNode);
  }

  function inlineNode(node) {
    if (typeof node === "string") return document.createTextNode(node);
    const children = node.text === undefined ? (node.children ?? []).map(inlineNode) : [node.text];
    const made = element(node.tag, "", ...children);
    if (node.tag === "a") {
      made.href = node.href;
      made.target = "_blank";
      made.rel = "noopener noreferrer nofollow";
    }
    return made;
  }

  function code({ language, text }) {
    const copy = element("button", "quiet", "Copy");
    copy.type = "button";
    copy.dataset.copyCode = "";
    const pre = element("pre", "", element("code", "", text));
    pre.tabIndex = 0; // so that a keyboard can scroll it
    pre.setAttribute("role", "region");
    pre.setAttribute("aria-label", language ? `Code, ${language}` : "Code");
    return element("div", "code", element("div", "code-bar", element("span", "", language || "code"), copy), pre);
  }

  function list({ ordered, start, loose, items }) {
    const made = element(ordered ? "ol" : "ul", "");
    if (ordered && start !== 1) made.start = start;
    for (const blocks of items) made.append(element("li", "", ...blocks.flatMap((b) => (loose ? [block(b)] : tight(b)))));
    return made;
  }

  /** In a list without blank lines a paragraph is bare text. */
  function tight(item) {
    return item.type === "paragraph" ? inline(item.text) : [block(item)];
  }

  function table({ head, rows, sides }) {
    const row = (cells, tag) =>
      element("tr", "", ...cells.map((cell, i) => element(tag, `side-${sides[i]}`, ...inline(cell))));
    const top = row(head, "th");
    for (const cell of top.children) cell.scope = "col";
    const body = element("tbody", "", ...rows.map((cells) => row(cells, "td")));
    const scroll = element("div", "table", element("table", "", element("thead", "", top), body));
    scroll.tabIndex = 0;
    scroll.setAttribute("role", "region");
    scroll.setAttribute("aria-label", "Table");
    return scroll;
  }

  const BLOCKS = {
    paragraph: ({ text }) => element("p", "", ...inline(text)),
    heading: ({ level, text }) => element(`h${Math.min(level + 2, 6)}`, "", ...inline(text)), // h1 and h2 are the page's
    rule: () => element("hr", ""),
    quote: ({ blocks }) => element("blockquote", "", ...blocks.map(block)),
    code,
    list,
    table,
  };

  function block(parsed) {
    return BLOCKS[parsed.type](parsed);
  }

  const shown = new WeakMap(); // container -> the blocks' sources, one for each child

  /** Show a text. Called again with a longer one it leaves the blocks that did not change, and what is selected there. */
  function render(container, text) {
    const blocks = MarkdownBlocks.parse(text);
    const before = shown.get(container) ?? [];
    const keys = blocks.map((b) => `${b.type} ${b.source}`);
    let same = 0;
    while (same < before.length && before[same] === keys[same]) same += 1;
    while (container.childNodes.length > same) container.lastChild.remove();
    container.append(...blocks.slice(same).map(block));
    shown.set(container, keys);
  }

  /** Show a text as it is. */
  function renderPlain(container, text) {
    shown.delete(container);
    container.replaceChildren(element("div", "plain", text));
  }

  return { render, renderPlain };
})();
