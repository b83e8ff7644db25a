// Shows the fields of the chosen kind of schedule alone. Without JavaScript, all of them are there.
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  const choice = document.getElementById("id_when");
  if (choice === null) {
    return;
  }
  const rows = new Map();
  for (const input of document.querySelectorAll("[data-kind]")) {
    const row = input.closest(".form-row");
    if (row !== null) {
      rows.set(row, input.dataset.kind.split(" "));
    }
  }
  const show = () => {
    for (const [row, kinds] of rows) {
      row.classList.toggle("celeriac-hidden", !kinds.includes(choice.value));
    }
  };
  choice.addEventListener("change", show);
  show();
});
