// Filter and sort of the first page, kept in the address; and the choice of light or dark.
"use strict";

const root = document.documentElement;
const theme = document.getElementById("theme");
const THEMES = ["system", "light", "dark"];

function show(name) {
  root.dataset.theme = name;
  theme.textContent = `Colours: ${name}`;
  theme.setAttribute("aria-label", `Colours: ${name}; press for ${THEMES[(THEMES.indexOf(name) + 1) % 3]}`);
}

function stored() {
  try {
    return localStorage.getItem("theme") || "system";
  } catch {
    return "system";
  }
}

show(THEMES.includes(stored()) ? stored() : "system");
theme.addEventListener("click", () => {
  const next = THEMES[(THEMES.indexOf(root.dataset.theme) + 1) % 3];
  show(next);
  try {
    localStorage.setItem("theme", next);
  } catch {
    // A browser that keeps nothing shows it for this page.
  }
});

const table = document.getElementById("rows");
if (table) {
  const filter = document.getElementById("filter");
  const count = document.getElementById("count");
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const buttons = [...table.querySelectorAll("th button")];
  const asked = new URLSearchParams(location.search);
  let sorted = asked.get("sort") || "";

  const remember = () => {
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
      sort();
      remember();
    });
  }
  filter.addEventListener("input", () => {
    narrow();
    remember();
  });
  document.addEventListener("keydown", (event) => {
    const typing = event.target instanceof HTMLInputElement;
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      filter.focus();
    }
  });
  filter.value = asked.get("q") || "";
  narrow();
  sort();
}
