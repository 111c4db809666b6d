// Sorts a table by the heading pressed; without it the page reads the same. In a table of class `grouped`
// every body is one entry: its first row has the values, the others go with it. What has no value comes last.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const collator = new Intl.Collator("en", {numeric: true});
  const isGrouped = table.classList.contains("grouped");
  const entries = () => isGrouped ? [...table.tBodies] : [...table.tBodies[0].rows];
  const number = (text) => parseFloat(text.replace("\u2212", "-").replace(/[\u202f× <]/g, ""));
  const value = (entry, column, isName) => {
    const cell = (isGrouped ? entry.rows[0] : entry).cells[column];
    const text = cell.dataset.value ?? cell.textContent.trim();
    return isName ? text : number(text);
  };
  const sort = (head, column) => {
    const isName = head.classList.contains("name");
    const was = head.getAttribute("aria-sort");
    const isUp = was ? was === "descending" : isName;  // numbers start with the largest
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", isUp ? "ascending" : "descending");
    const known = [], unknown = [];
    for (const entry of entries()) {
      const found = value(entry, column, isName);
      (found === "" || Number.isNaN(found) ? unknown : known).push([found, entry]);
    }
    known.sort(([a], [b]) => (isUp ? 1 : -1) * (isName ? collator.compare(a, b) : a - b));
    const parent = isGrouped ? table : table.tBodies[0];
    parent.append(...[...known, ...unknown].map(([, entry]) => entry));
    table.dispatchEvent(new Event("sorted"));
  };
  heads.forEach((head, column) => {
    if (!head.textContent.trim()) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => sort(head, column));
  });
}
