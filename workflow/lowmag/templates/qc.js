// Opens rows, filters them and copies cures; without it every row is there and open.
const cohort = document.querySelector("table.cohort");
const step = Number(cohort.dataset.step);  // rows at a time: a browser lays out thousands slowly
let most = step;
const slides = [...cohort.tBodies];
const inner = (slide) => slide.querySelector("button[aria-expanded]");

const open = (slide, isOpen) => {
  slide.rows[1].hidden = !isOpen;
  inner(slide).setAttribute("aria-expanded", isOpen);
};
cohort.addEventListener("click", (event) => {
  const entry = event.target.closest("tr.entry");
  if (!entry || event.target.closest("a") || String(getSelection())) return;
  const slide = entry.parentElement;
  open(slide, slide.rows[1].hidden);
});
const goTo = () => {
  const slide = slides.find((other) => `#${other.id}` === location.hash);
  if (!slide) return;
  if (slide.hidden) clear();
  slide.hidden = false;
  open(slide, true);
  slide.scrollIntoView({block: "start"});
  inner(slide).focus({preventScroll: true});
};

const search = document.getElementById("text");
const chips = [...document.querySelectorAll(".chip[data-group]")];
const texts = new Map();  // filled at the first search: reading the text of all rows takes time
const textOf = (slide) => {
  if (!texts.has(slide)) texts.set(slide, slide.textContent.toLowerCase());
  return texts.get(slide);
};
const apart = (n) => n.toLocaleString("en").replaceAll(",", "\u202f");
const filter = () => {
  const wanted = {};  // any of a group, and all groups
  for (const {dataset: {group, key}} of chips.filter((chip) => chip.getAttribute("aria-pressed") === "true"))
    (wanted[group] ??= []).push(key);
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const fits = (slide) =>
    Object.entries(wanted).every(([group, keys]) => {
      const own = (slide.dataset[group] ?? "").split(" ");
      return keys.some((key) => own.includes(key));
    }) && words.every((word) => textOf(slide).includes(word));
  let n = 0;
  for (const slide of cohort.tBodies) {  // in the order they stand in now
    const isShown = fits(slide) && ++n <= most;
    if (slide.hidden === isShown) slide.hidden = !isShown;
  }
  document.getElementById("shown").textContent = `${apart(n)} of ${apart(slides.length)} slides`;
  document.getElementById("clear").hidden = n === slides.length;
  document.getElementById("none").hidden = n > 0;
  document.getElementById("more").hidden = n <= most;
};
const filterAnew = () => { most = step; filter(); };
const clear = () => {
  search.value = "";
  chips.forEach((chip) => chip.setAttribute("aria-pressed", "false"));
  filterAnew();
};
for (const chip of chips) chip.addEventListener("click", () => {
  chip.setAttribute("aria-pressed", chip.getAttribute("aria-pressed") !== "true");
  filterAnew();
});
let waiting;
search.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(filterAnew, 120); });
cohort.addEventListener("sorted", filterAnew);
document.querySelector("#more button").addEventListener("click", () => { most += step; filter(); });
document.getElementById("clear").addEventListener("click", clear);
document.getElementById("clear-too").addEventListener("click", clear);
document.getElementById("tiles").addEventListener("change", (event) => cohort.classList.toggle("bare", !event.target.checked));

for (const button of document.querySelectorAll(".copy button")) button.addEventListener("click", async () => {
  const code = button.parentElement.querySelector("code");
  getSelection().selectAllChildren(code);  // and where the clipboard is refused, it is ready for Ctrl+C
  try { await navigator.clipboard.writeText(code.textContent); button.textContent = "copied"; } catch { button.textContent = "selected"; }
});
document.querySelector(".filters").hidden = false;
document.getElementById("more").hidden = slides.length <= step;
addEventListener("hashchange", goTo);
goTo();
