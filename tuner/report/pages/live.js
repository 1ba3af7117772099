// Parts of a page that follow the service: asked for again every few seconds while the page is seen.
"use strict";

const renew = (part, text) => {
  const open = [...part.querySelectorAll("details")].map((details) => details.open);
  const typed = new Map([...part.querySelectorAll("input")].map((input) => [input.id, input.value]));
  part.innerHTML = text; // the service's own page, which escaped what others wrote
  part.querySelectorAll("details").forEach((details, number) => (details.open = open[number] ?? details.open));
  for (const input of part.querySelectorAll("input")) input.value = typed.get(input.id) ?? "";
  enableTables(part);
};

for (const part of document.querySelectorAll("[data-live]")) {
  let known = "";
  const look = async () => {
    if (document.hidden || part.contains(document.activeElement)) return;
    try {
      const answer = await fetch(part.dataset.live, { headers: { Accept: "text/html" } });
      const text = answer.ok ? await answer.text() : known;
      if (text !== known) renew(part, text);
      known = text;
    } catch {
      // The service is away for the moment; the page keeps what it shows.
    }
  };
  setInterval(look, 1000 * Number(part.dataset.every));
}
