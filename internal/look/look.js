// Pages work without this. It keeps the parts marked data-live up to date in
// place, so that nothing jumps and no focus is lost; without it the page loads
// itself anew (noscript refresh in the layout).
"use strict";
(() => {
  const seconds = () => Number(document.body.dataset.refresh || 0);
  const tick = async () => {
    try {
      const answer = await fetch(location.href, {credentials: "same-origin", redirect: "error"});
      if (answer.ok && !document.hidden) {
        const next = new DOMParser().parseFromString(await answer.text(), "text/html");
        for (const old of document.querySelectorAll("[data-live]")) {
          const fresh = next.getElementById(old.id);
          if (!fresh || old.contains(document.activeElement)) continue;
          for (const open of old.querySelectorAll("details[open][id]")) {
            const same = fresh.querySelector("#" + open.id);
            if (same) same.open = true;
          }
          old.replaceWith(document.adoptNode(fresh));
        }
        document.body.dataset.refresh = next.body.dataset.refresh || "0";
      }
    } catch { /* tried again at the next tick */ }
    if (seconds() > 0) setTimeout(tick, seconds() * 1000);
  };
  if (seconds() > 0) setTimeout(tick, seconds() * 1000);
})();
