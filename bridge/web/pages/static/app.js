"use strict";
// Colours first, before anything is painted.
(() => {
  const root = document.documentElement;
  let chosen = null;
  try { chosen = localStorage.getItem("theme"); } catch { /* storage is off */ }
  if (chosen === "dark" || chosen === "light") root.dataset.theme = chosen;

  document.addEventListener("DOMContentLoaded", () => {
    const button = document.querySelector("[data-theme-toggle]");
    if (!button) return;
    const dark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
    const name = () => { button.textContent = dark() ? "Light mode" : "Dark mode"; };
    button.hidden = false;
    name();
    button.addEventListener("click", () => {
      root.dataset.theme = dark() ? "light" : "dark";
      try { localStorage.setItem("theme", root.dataset.theme); } catch { /* for this page only */ }
      name();
    });
  });
})();

// Times as the reader's clock has them.
const localTimes = (within) => {
  const today = new Date().toDateString();
  for (const one of within.querySelectorAll("time[data-at]")) {
    const at = new Date(one.dateTime);
    if (Number.isNaN(at.getTime())) continue;
    const clock = at.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
    one.textContent = at.toDateString() === today ? clock : `${at.toLocaleDateString()} ${clock}`;
  }
};

// The list: kept fresh while it is looked at, and moved in by keys.
const makeList = (box) => {
  const live = document.querySelector("[data-live]");
  const act = document.getElementById("act");
  const count = document.querySelector("[data-count]");
  const all = document.querySelector("[data-all]");
  let tag = "";
  let here = "";
  let failures = 0;
  const say = (text) => { if (live && live.textContent !== text) live.textContent = text; };
  const rows = () => [...box.querySelectorAll(".mail")];
  const current = () => rows().find((row) => row.dataset.id === here);
  const boxes = () => [...box.querySelectorAll("input[name=id]")];

  const counted = () => {
    const number = boxes().filter((one) => one.checked).length;
    if (count) count.textContent = number ? `${number} selected` : "";
  };
  const mark = (row) => {
    for (const other of rows()) other.classList.toggle("here", other === row);
    here = row ? row.dataset.id : "";
  };
  const move = (by) => {
    const found = rows();
    if (!found.length) return;
    const at = found.indexOf(current());
    const row = found[Math.min(Math.max(at < 0 ? 0 : at + by, 0), found.length - 1)];
    mark(row);
    const link = row.querySelector("a");
    link.focus({ preventScroll: true });
    row.scrollIntoView({ block: "nearest" });
  };
  const refresh = async () => {
    try {
      const answer = await fetch(box.dataset.list, { headers: tag ? { "If-None-Match": tag } : {}, cache: "no-store" });
      if (answer.redirected) { location.reload(); return; }
      failures = 0;
      say("Live");
      if (answer.status !== 200) return;
      tag = answer.headers.get("ETag") || "";
      const text = await answer.text();
      const chosen = new Set(boxes().filter((one) => one.checked).map((one) => one.value));
      const focused = box.contains(document.activeElement);
      const picking = focused && document.activeElement.type === "checkbox" ? document.activeElement.value : "";
      box.innerHTML = text;
      for (const one of boxes()) one.checked = chosen.has(one.value);
      localTimes(box);
      const row = current();
      if (row) {
        mark(row);
        if (focused && !picking) row.querySelector("a").focus({ preventScroll: true });
      }
      if (picking) boxes().find((one) => one.value === picking)?.focus({ preventScroll: true });
      counted();
    } catch {
      failures += 1;
      if (failures > 1) say("Not connected");
    }
  };
  const loop = async () => {
    if (document.visibilityState === "visible") await refresh();
    setTimeout(loop, Math.min(2000 * (1 + failures), 15000));
  };
  const press = (action) => {
    if (!act) return;
    if (!boxes().some((one) => one.checked)) {
      const row = current();
      const one = row && row.querySelector("input[name=id]");
      if (!one) return;
      one.checked = true;
    }
    act.querySelector(`button[value=${action}]`).click();
  };

  box.addEventListener("change", counted);
  box.addEventListener("focusin", (event) => { const row = event.target.closest(".mail"); if (row) mark(row); });
  if (all) {
    all.hidden = false;
    all.querySelector("input").addEventListener("change", (event) => {
      for (const one of boxes()) one.checked = event.target.checked;
      counted();
    });
  }
  setTimeout(loop, 2000);
  return {
    j: () => move(1),
    k: () => move(-1),
    x: () => { const one = current()?.querySelector("input[name=id]"); if (one) { one.checked = !one.checked; counted(); } },
    Enter: () => { const row = current(); if (row) location.assign(row.querySelector("a").href); },
    r: () => press("retry"),
    h: () => press(current()?.dataset.status === "held" ? "release" : "hold"),
  };
};

// What becomes of a message, as long as something is still to come.
const watchDelivery = (box) => {
  const loop = async () => {
    if (document.visibilityState === "visible") {
      try {
        const answer = await fetch(box.dataset.delivery, { cache: "no-store" });
        if (answer.status !== 200 || answer.redirected) return;
        box.innerHTML = await answer.text();
        localTimes(box);
      } catch { /* tried again */ }
      const state = box.querySelector("[data-fragment]")?.dataset.state;
      const tag = document.querySelector("[data-status-here] .tag");
      if (state && tag) { tag.textContent = state; tag.className = `tag ${state}`; }
      const form = document.querySelector("form[data-act]");
      if (state && form) form.dataset.status = state;
    }
    if (box.querySelector("[data-waits]")) setTimeout(loop, 2000);
  };
  if (box.querySelector("[data-waits]")) setTimeout(loop, 2000);
};

// A page of numbers, read again while it is looked at. What is open stays open, and what is marked or typed in is let be.
const keepFresh = (box) => {
  const places = () => [...box.querySelectorAll("a, summary, [tabindex]")];
  const busy = () => {
    const marked = getSelection();
    const at = document.activeElement;
    return (marked && !marked.isCollapsed) || (at && at.matches("input, select, textarea"));
  };
  const refresh = async () => {
    const answer = await fetch(location.href, { cache: "no-store" });
    if (answer.redirected) { location.reload(); return; }
    if (answer.status !== 200) return;
    const text = await answer.text();
    const fresh = new DOMParser().parseFromString(text, "text/html").querySelector("[data-refresh]");
    if (!fresh || busy()) return;
    const open = [...box.querySelectorAll("details")].map((one) => one.open);
    const at = places().indexOf(document.activeElement);
    box.innerHTML = fresh.innerHTML;
    box.querySelectorAll("details").forEach((one, place) => { one.open = Boolean(open[place]); });
    localTimes(box);
    if (at >= 0) places()[at]?.focus({ preventScroll: true });
  };
  setInterval(() => {
    if (document.visibilityState === "visible" && !busy()) refresh().catch(() => { /* tried again */ });
  }, Number(box.dataset.refresh) * 1000);
};

document.addEventListener("DOMContentLoaded", () => {
  localTimes(document);
  const numbers = document.querySelector("[data-refresh]");
  if (numbers) keepFresh(numbers);
  const delivery = document.querySelector("[data-delivery]");
  if (delivery) watchDelivery(delivery);
  const box = document.querySelector("[data-list]");
  const dialog = document.querySelector("[data-help-dialog]");
  const showHelp = (event) => {
    if (!dialog || !dialog.showModal) return;
    event.preventDefault();
    if (!dialog.open) dialog.showModal();
  };
  document.querySelector("[data-help]")?.addEventListener("click", showHelp);
  const button = (value) => () => document.querySelector(`form[data-act] button[value=${value}]`)?.click();
  const keys = box ? makeList(box) : {
    r: button("retry"),
    h: () => button(document.querySelector("form[data-act]")?.dataset.status === "held" ? "release" : "hold")(),
    u: () => location.assign("/"),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || dialog?.open) return;
    const at = event.target;
    const typing = at instanceof HTMLElement && at.matches("textarea, select, input:not([type=checkbox])");
    if (typing) { if (event.key === "Escape") at.blur(); return; }
    if (event.key === "?") { if (dialog) showHelp(event); else location.assign("/help"); return; }
    if (event.key === "/") {
      const search = document.getElementById("q");
      event.preventDefault();
      if (search) { search.focus(); search.select(); } else location.assign("/");
      return;
    }
    if (event.key === "Enter" && at instanceof HTMLElement && at.closest("a, button, summary")) return;
    const found = Object.hasOwn(keys, event.key) ? keys[event.key] : null;
    if (found) { event.preventDefault(); found(); }
  });
});
