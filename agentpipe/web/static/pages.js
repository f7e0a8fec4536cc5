// Live updates and keyboard shortcuts. Every page works without this script.
"use strict";

(function () {
  const keep = new Set();

  function replace(html) {
    const fresh = new DOMParser().parseFromString(html, "text/html").body;
    const live = document.getElementById("live");
    const parts = [...fresh.children];
    const same = parts.length === live.children.length
      && parts.every((part, at) => part.dataset.live && part.dataset.live === live.children[at].dataset.live);
    for (const each of live.querySelectorAll("details[id]")) {
      each.open ? keep.add(each.id) : keep.delete(each.id);
    }
    for (const each of fresh.querySelectorAll("details[id]")) {
      each.open = keep.has(each.id) || (each.open && !live.querySelector("#" + CSS.escape(each.id)));
    }
    const focused = document.activeElement && document.activeElement.closest("details[id]");
    if (!same) {
      live.replaceChildren(...parts);
    } else {
      parts.forEach((part, at) => {
        if (part.outerHTML !== live.children[at].outerHTML) live.children[at].replaceWith(part);
      });
    }
    const again = focused && !focused.isConnected && document.getElementById(focused.id);
    if (again) again.querySelector("summary").focus();
  }

  const state = document.getElementById("state");
  if (state && window.EventSource) {
    const events = new EventSource(state.dataset.events);
    const say = (text, name) => { state.textContent = text; state.className = "live " + name; };
    events.onmessage = (event) => { replace(event.data); say("live", "on"); };
    events.onerror = () => say("connection lost, trying again", "off");
    window.addEventListener("pagehide", () => events.close());
  }

  function step(by) {
    const steps = [...document.querySelectorAll("[data-step]")].filter((each) => each.offsetParent);
    const at = steps.indexOf(document.activeElement);
    const next = steps[at < 0 ? (by > 0 ? 0 : steps.length - 1) : Math.min(steps.length - 1, Math.max(0, at + by))];
    if (next) {
      next.focus();
      next.scrollIntoView({ block: "nearest" });
    }
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea")) return;
    if (event.key === "j" || event.key === "k") step(event.key === "j" ? 1 : -1);
    else if (event.key === "/") document.querySelector(".filters input[type=search], .find input").focus();
    else return;
    event.preventDefault();
  });

  const copy = document.querySelector("[data-copy]");
  if (copy && navigator.clipboard) {
    copy.hidden = false;
    copy.addEventListener("click", () => navigator.clipboard.writeText(location.href)
      .then(() => { copy.textContent = "Copied"; }));
  }
})();
