// Comfort only: every page can be read without it.
const root = document.documentElement;
root.classList.add("js");

const isDark = () => (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
const label = (toggle) => (toggle.textContent = isDark() ? "Light" : "Dark");
document.querySelectorAll("[data-theme-toggle]").forEach(label);

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
