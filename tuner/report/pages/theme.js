// The choice of light or dark, kept by the browser.
"use strict";

{
  const root = document.documentElement;
  const theme = document.getElementById("theme");
  const THEMES = ["system", "light", "dark"];

  const show = (name) => {
    root.dataset.theme = name;
    theme.textContent = `Colours: ${name}`;
    theme.setAttribute("aria-label", `Colours: ${name}; press for ${THEMES[(THEMES.indexOf(name) + 1) % 3]}`);
  };

  const stored = () => {
    try {
      return localStorage.getItem("theme") || "system";
    } catch {
      return "system";
    }
  };

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
}
