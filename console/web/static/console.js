// Comfort only: every page can be read without it.
const root = document.documentElement;
root.classList.add("js");

const isDark = () => (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
const label = (toggle) => (toggle.textContent = isDark() ? "Light" : "Dark");
document.querySelectorAll("[data-theme-toggle]").forEach(label);

document.querySelector(".nav [aria-current]")?.scrollIntoView({ block: "nearest", inline: "nearest" });

document.addEventListener("click", async (event) => {
  const copy = event.target.closest("[data-copy]");
  if (copy) {
    await navigator.clipboard.writeText(copy.dataset.copy);
    copy.textContent = "copied";
    setTimeout(() => (copy.textContent = "copy"), 1200);
  }
  const toggle = event.target.closest("[data-theme-toggle]");
  if (toggle) {
    root.dataset.theme = isDark() ? "light" : "dark";
    document.cookie = `everlog-theme=${root.dataset.theme}; path=/; max-age=31536000; samesite=strict`;
    label(toggle);
  }
});

// An open list closes by Escape and by a click elsewhere.
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") document.querySelectorAll("details.picker[open]").forEach((one) => (one.open = false));
});
document.addEventListener("click", (event) => {
  document.querySelectorAll("details.picker[open]").forEach((one) => one.contains(event.target) || (one.open = false));
});

// Keys: / goes to the filter, the arrows go from row to row, Escape closes the row beside the others.
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const typing = event.target.closest("input, textarea, select");
  const search = document.querySelector("input[type=search]");
  if (event.key === "/" && !typing && search) {
    event.preventDefault();
    search.focus();
  }
  if (event.key === "Escape") document.querySelector("a[data-close]")?.click();
  const link = event.target.closest("tbody a.rowlink");
  const row = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
  const next = link && row && link.closest("tr")[row]?.querySelector("a.rowlink");
  if (next) {
    event.preventDefault();
    next.focus();
  }
});

// The slider shows the page of its position when it is released.
document.addEventListener("change", (event) => {
  if (event.target.matches("[data-submit]")) event.target.form.requestSubmit();
});

// Relative times stay true while a page is open.
const UNITS = [[31536000, "year", "years"], [86400, "d", "d"], [3600, "h", "h"], [60, "min", "min"], [1, "s", "s"]];
const ago = (seconds) => {
  if (Math.abs(seconds) < 1) return "now";
  const [unit, one, several] = UNITS.find(([size]) => Math.abs(seconds) >= size);
  const count = Math.floor(Math.abs(seconds) / unit);
  const words = `${count} ${count === 1 ? one : several}`;
  return seconds > 0 ? `${words} ago` : `in ${words}`;
};
setInterval(() => {
  document.querySelectorAll("time[data-relative]").forEach((one) => {
    one.textContent = ago((Date.now() - Date.parse(one.dateTime)) / 1000);
  });
}, 1000);

// A part that is read again waits while nobody sees it and while text in it is selected. It keeps the focus, on the
// same link, and how far its tables are scrolled.
const again = "[hx-trigger^=every]";
document.addEventListener("htmx:beforeRequest", (event) => {
  const part = event.target.closest(again), chosen = getSelection();
  const reads = part && chosen && !chosen.isCollapsed && part.contains(chosen.anchorNode);
  if (part === event.target && (document.hidden || reads)) event.preventDefault();
});
let before = null;
document.addEventListener("htmx:beforeSwap", (event) => {
  const part = event.detail.target, focus = document.activeElement;
  before = part.id && {
    link: part.contains(focus) ? focus.getAttribute("href") : null,
    scrolled: [...part.querySelectorAll(".scroll")].map((one) => one.scrollLeft),
  };
});
document.addEventListener("htmx:afterSwap", () => {
  const part = before && document.getElementById("live");
  if (!part) return;
  part.querySelectorAll(".scroll").forEach((one, at) => (one.scrollLeft = before.scrolled[at] ?? 0));
  if (before.link) [...part.querySelectorAll("a")].find((one) => one.getAttribute("href") === before.link)?.focus({ preventScroll: true });
  before = null;
});

// A live list keeps its newest entries only.
document.addEventListener("htmx:sseMessage", (event) => {
  const list = event.target.closest("[data-most]");
  while (list && list.children.length > Number(list.dataset.most)) list.lastElementChild.remove();
});

// A server that is away: the page says so, and that it is back.
const lost = document.getElementById("lost");
const away = (yes) => lost && (lost.hidden = !yes);
document.addEventListener("htmx:sendError", () => away(true));
document.addEventListener("htmx:responseError", () => away(true));
document.addEventListener("htmx:sseError", () => away(true));
document.addEventListener("htmx:sseOpen", () => away(false));
document.addEventListener("htmx:afterRequest", (event) => event.detail.successful && away(false));
