// Buttons that copy the text before them.
"use strict";

const copied = async (text) => {
  try {
    await navigator.clipboard.writeText(text); // not there on a page without TLS from another machine
    return true;
  } catch {
    return false;
  }
};

const select = (element) => {
  const range = document.createRange();
  range.selectNodeContents(element);
  getSelection().removeAllRanges();
  getSelection().addRange(range);
};

for (const button of document.querySelectorAll("button.copy")) {
  const lines = button.parentElement.querySelector("code");
  const name = button.textContent;
  button.hidden = false;
  button.addEventListener("click", async () => {
    const done = await copied(lines.textContent);
    if (!done) select(lines);
    button.textContent = done ? "Copied" : "Selected: press Ctrl+C";
    setTimeout(() => (button.textContent = name), 2000);
  });
}
