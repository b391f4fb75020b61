"use strict";
// Sorting and filtering of the rows that are there; without this script the page shows all of them.
for (const box of document.querySelectorAll(".sortable")) {
  const table = box.querySelector("table");
  const rows = [...table.tBodies];
  const heads = [...table.tHead.rows[0].cells];

  const value = (row, column) => {
    const cell = row.rows[0].cells[column];
    const given = cell.dataset.value ?? cell.textContent.trim();
    const number = given === "" ? NaN : Number(given);
    return Number.isNaN(number) ? given : number;
  };
  const compare = (a, b) => {
    if (a === "" || b === "") return (a === "") - (b === "");
    return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
  };
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const sorted = rows.map((row, place) => ({ row, place, key: value(row, column) }));
      sorted.sort((a, b) => (up ? 1 : -1) * compare(a.key, b.key) || a.place - b.place);
      table.append(...sorted.map((entry) => entry.row));
    });
  });

  const tools = box.querySelector("form.tools");
  if (!tools) continue;
  tools.hidden = false;
  const search = tools.querySelector("input");
  const state = tools.querySelector("select");
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach((row, place) => {
      const fits = words.every((word) => texts[place].includes(word));
      row.hidden = !fits || Boolean(state && state.value && row.dataset.state !== state.value);
      shown += !row.hidden;
    });
    tools.querySelector("output").textContent = shown === rows.length ? `${shown} rows` : `${shown} of ${rows.length} rows`;
  };
  tools.addEventListener("input", filter);
  tools.addEventListener("submit", (event) => event.preventDefault());
  filter();
}

const unfold = document.getElementById("unfold");
unfold.hidden = false;
unfold.addEventListener("click", () => {
  const all = [...document.querySelectorAll("details")];
  const open = all.some((one) => !one.open);
  for (const one of all) one.open = open;
  unfold.textContent = open ? "Fold everything" : "Unfold everything";
});
