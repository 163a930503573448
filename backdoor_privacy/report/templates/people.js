"use strict";
// Search and sort the table of people; without this script it is a table all the same.
const table = document.getElementById("everybody");
const body = table.tBodies[0];
const rows = Array.from(body.rows);
const find = document.getElementById("find");
const found = document.getElementById("found");

function show() {
  const wanted = find.value.trim().toLowerCase();
  let count = 0;
  for (const row of rows) {
    const text = Array.from(row.cells, (cell) => cell.textContent).join(" ");
    row.hidden = !text.toLowerCase().includes(wanted);
    count += row.hidden ? 0 : 1;
  }
  found.textContent = `${count} of ${rows.length}`;
}

Array.from(table.tHead.rows[0].cells).forEach((cell, column) => {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = cell.textContent;
  cell.replaceChildren(button);
  button.addEventListener("click", () => {
    const descending = cell.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    cell.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const sign = descending ? -1 : 1;
    const numeric = cell.classList.contains("number");
    rows.sort((a, b) => sign * a.cells[column].textContent.localeCompare(b.cells[column].textContent, "en", { numeric }));
    body.append(...rows);
  });
});

find.parentElement.hidden = false;
find.addEventListener("input", show);
show();
