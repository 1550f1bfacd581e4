"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("script");

  // Dark and light: what the system asks for, until the reader chooses.
  const theme = document.getElementById("theme");
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.style.colorScheme || (prefersDark.matches ? "dark" : "light")) === "dark";
  const showTheme = () => theme.setAttribute("aria-pressed", isDark());
  theme.addEventListener("click", () => {
    root.style.colorScheme = isDark() ? "light" : "dark";
    showTheme();
  });
  prefersDark.addEventListener("change", showTheme);
  showTheme();

  // A listing: each entry is a <tbody> of its line and of what is known about it.
  const words = new Intl.Collator("en", { numeric: true, sensitivity: "base" });
  const compare = (a, b, numeric, sign) => {
    if (a === "" || b === "") return (a === "") - (b === ""); // what is not there is last either way
    return sign * (numeric ? Number(a) - Number(b) : words.compare(a, b));
  };
  const cell = (entry, column) => entry.rows[0].cells[column].dataset.value;

  const show = (entry, open) => {
    entry.querySelector(".opens").setAttribute("aria-expanded", open);
    entry.rows[1].hidden = !open;
  };

  for (const table of document.querySelectorAll(".listing")) {
    const entries = [...table.tBodies];
    const controls = document.getElementById(table.dataset.controls);
    const [search, ...choices] = controls.querySelectorAll("input, select");
    const count = controls.querySelector("[role=status]");

    const filter = () => {
      const wanted = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const entry of entries) {
        const text = entry.textContent.toLowerCase();
        entry.hidden = !(wanted.every((word) => text.includes(word)) &&
          choices.every((choice) => choice.selectedIndex === 0 ||
            cell(entry, choice.dataset.column) === choice.value));
        shown += !entry.hidden;
      }
      count.textContent = `${shown} of ${entries.length}`;
    };
    controls.addEventListener("input", filter);
    controls.querySelector("button").addEventListener("click", () => {
      search.value = "";
      for (const choice of choices) choice.selectedIndex = 0;
      filter();
    });
    filter();

    const heads = [...table.tHead.querySelectorAll("th")];
    heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
      const before = head.getAttribute("aria-sort");
      const next = { ascending: "descending", descending: "ascending" }[before] || head.dataset.first;
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", next);
      const sign = next === "ascending" ? 1 : -1, numeric = "numeric" in head.dataset;
      entries.sort((a, b) => compare(cell(a, column), cell(b, column), numeric, sign));
      table.append(...entries);
    }));

    for (const entry of entries) {
      const button = entry.querySelector(".opens");
      show(entry, false);
      button.addEventListener("click", () => {
        show(entry, button.getAttribute("aria-expanded") === "false");
      });
    }
  }

  // A link to a cell opens it, whatever the filter says.
  const follow = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const entry = target && target.closest("tbody");
    if (entry && entry.querySelector(".opens")) {
      entry.hidden = false;
      show(entry, true);
      entry.querySelector(".opens").focus();
      entry.scrollIntoView({ block: "center" });
    }
  };
  addEventListener("hashchange", follow);
  follow();

  // One method of a chart stands out.
  for (const chart of document.querySelectorAll(".chart")) {
    const buttons = [...chart.querySelectorAll(".legend button")];
    for (const button of buttons) {
      button.addEventListener("click", () => {
        const on = button.getAttribute("aria-pressed") !== "true";
        for (const other of buttons) other.setAttribute("aria-pressed", on && other === button);
        for (const mark of chart.querySelectorAll("[data-method]")) {
          mark.classList.toggle("quiet", on && mark.dataset.method !== button.value);
        }
      });
    }
  }

  // Paper shows what is folded away.
  let folded = [];
  addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details:not([open])")];
    for (const part of folded) part.open = true;
  });
  addEventListener("afterprint", () => {
    for (const part of folded) part.open = false;
  });
})();
