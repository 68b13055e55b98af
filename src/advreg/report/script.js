
"use strict";
// Everything is on the page without this script; it only adds tabs and filters.
for (const form of document.querySelectorAll(".filters")) {
  const cards = [...form.parentElement.querySelectorAll(".card")];
  const shown = form.querySelector("output");
  form.hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", () => {
    const wanted = Object.fromEntries(new FormData(form));
    for (const card of cards) {
      card.hidden = Object.entries(wanted).some(([key, value]) => value && card.dataset[key] !== value);
    }
    shown.textContent = cards.filter((card) => !card.hidden).length + " shown";
  });
}

const bar = document.querySelector(".protocols");
if (bar) {
  const tabs = [...bar.querySelectorAll("a")];
  const panels = tabs.map((tab) => document.querySelector(tab.hash));
  const choose = (chosen) => tabs.forEach((tab, place) => {
    tab.setAttribute("aria-selected", String(place === chosen));
    tab.tabIndex = place === chosen ? 0 : -1;
    panels[place].classList.toggle("folded", place !== chosen);
  });
  bar.setAttribute("role", "tablist");
  tabs.forEach((tab, place) => {
    tab.setAttribute("role", "tab");
    tab.setAttribute("aria-controls", panels[place].id);
    panels[place].setAttribute("role", "tabpanel");
    panels[place].setAttribute("aria-labelledby", tab.id);
    tab.addEventListener("click", (event) => { event.preventDefault(); choose(place); });
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = (place + step + tabs.length) % tabs.length;
      choose(next);
      tabs[next].focus();
    });
  });
  choose(Math.max(0, tabs.findIndex((tab) => tab.hash === location.hash)));
}
