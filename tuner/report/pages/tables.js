// Sort and filter of tables of the class "sorted". The table "rows" keeps both in the address.
"use strict";

// Table -> how it is sorted, for tables that are made anew.
const orders = new Map();

function enableTables(part) {
  for (const table of part.querySelectorAll("table.sorted")) enableTable(table);
}

function enableTable(table) {
  const filter = document.querySelector(`input[data-filters="${table.id}"]`);
  const count = document.querySelector(`[data-counts="${table.id}"]`);
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const buttons = [...table.querySelectorAll("th button")];
  const addressed = table.id === "rows";
  const asked = new URLSearchParams(addressed ? location.search : "");
  let sorted = asked.get("sort") || orders.get(table.id) || "";

  const remember = () => {
    if (!addressed) return;
    const now = new URLSearchParams(location.search);
    for (const [name, value] of [["q", filter.value], ["sort", sorted]]) {
      if (value) now.set(name, value);
      else now.delete(name);
    }
    const query = now.toString();
    history.replaceState(null, "", query ? `?${query}` : location.pathname);
  };

  const narrow = () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
    const shown = rows.filter((row) => !row.hidden).length;
    const all = `${rows.length} ${rows.length === 1 ? "row" : "rows"}`;
    count.textContent = shown === rows.length ? all : `${shown} of ${all}`;
  };

  const sort = () => {
    const down = sorted.startsWith("-");
    const column = buttons.findIndex((button) => button.dataset.key === sorted.replace("-", ""));
    buttons.forEach((button, number) => {
      const state = number === column ? (down ? "descending" : "ascending") : "none";
      button.closest("th").setAttribute("aria-sort", state);
    });
    if (column < 0) return;
    const value = (row) => row.cells[column].dataset.value;
    const compare = (a, b) => {
      const [x, y] = [value(a), value(b)];
      const apart = Number(x) - Number(y);
      return Number.isNaN(apart) ? x.localeCompare(y) : apart;
    };
    rows.sort((a, b) => (down ? compare(b, a) : compare(a, b)));
    body.append(...rows);
  };

  for (const button of buttons) {
    button.addEventListener("click", () => {
      const key = button.dataset.key;
      sorted = sorted === key ? `-${key}` : key;
      orders.set(table.id, sorted);
      sort();
      remember();
    });
  }
  sort();
  if (!filter) return;
  filter.addEventListener("input", () => {
    narrow();
    remember();
  });
  filter.value = asked.get("q") || filter.value;
  narrow();
}

enableTables(document);
document.addEventListener("keydown", (event) => {
  const filter = document.querySelector("input[data-filters]");
  const typing = event.target instanceof HTMLInputElement;
  if (filter && event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    filter.focus();
  }
});
