"use strict";
const up = document.body.dataset.up, box = document.getElementById("search"), list = document.getElementById("results");
const beside = document.getElementById("beside");
if (beside) beside.open = matchMedia("(min-width: 62rem)").matches;
const plain = text => text.toLowerCase().normalize("NFKD").replace(/[\u0300-\u036f]/g, "");
const rows = PAGES.map(([url, title, kind, text]) => ({url, title, kind, text, name: plain(title), all: plain(title + " " + text)}));
function matching(question) {
  const words = plain(question).split(/\s+/).filter(Boolean);
  if (!words.length) return [];
  const score = row => words.reduce((sum, word) => {
    if (row.name == word) return sum + 20;
    if (row.name.startsWith(word)) return sum + 10;
    return sum + (row.name.includes(word) ? 6 : 1);
  }, 0);
  return rows.filter(row => words.every(word => row.all.includes(word)))
    .map(row => [score(row), row]).sort((a, b) => b[0] - a[0]).slice(0, 12).map(each => each[1]);
}
function around(row, question) {
  const word = plain(question).split(/\s+/)[0], at = plain(row.text).indexOf(word);
  const from = Math.max(0, at - 40), to = from + 120, part = row.text.slice(from, to);
  // Whole words alone.
  const first = from ? part.replace(/^\S*\s+/, "… ") : part;
  return to < row.text.length ? first.replace(/\s+\S*$/, " …") : first;
}
function show() {
  list.replaceChildren(...matching(box.value).map(row => {
    const item = document.createElement("li"), link = document.createElement("a"), more = document.createElement("small");
    link.href = up + row.url; link.textContent = row.title;
    more.textContent = row.kind + ": " + around(row, box.value);
    item.append(link, more);
    return item;
  }));
  if (box.value && !list.children.length) {
    const item = document.createElement("li"); item.textContent = "nothing"; list.append(item);
  }
  list.hidden = !box.value;
}
box.addEventListener("input", show);
document.addEventListener("keydown", event => {
  if (event.key == "/" && document.activeElement != box) { event.preventDefault(); box.focus(); }
  if (event.key == "Escape") { box.value = ""; show(); box.blur(); }
  if (event.key == "Enter" && document.activeElement == box) list.querySelector("a")?.click();
});
