// Keeps a page up to date without reloading it: asks for its changing part, and changes only what differs,
// so that focus, selection, scroll positions and opened sections stay.
(() => {
  'use strict';
  const main = document.getElementById('main'), lost = document.getElementById('lost');
  const every = Number(document.body.dataset.every);
  let answered = new Date();

  function alike(mine, fresh) {
    return mine.nodeName === fresh.nodeName && (mine.id || '') === (fresh.id || '');
  }

  function change(mine, fresh) {
    if (mine.nodeType === Node.TEXT_NODE) {
      if (mine.data !== fresh.data) mine.data = fresh.data;
      return;
    }
    for (const { name, value } of [...fresh.attributes]) {
      if (mine.getAttribute(name) !== value) mine.setAttribute(name, value);
    }
    for (const { name } of [...mine.attributes]) {
      // Whoever reads has opened it.
      if (!fresh.hasAttribute(name) && name !== 'open') mine.removeAttribute(name);
    }
    const children = [...fresh.childNodes];
    children.forEach((child, place) => {
      const old = mine.childNodes[place];
      if (!old) mine.append(child);
      else if (alike(old, child)) change(old, child);
      else old.replaceWith(child);
    });
    while (mine.childNodes.length > children.length) mine.lastChild.remove();
  }

  function show(html) {
    const made = document.createElement('template');
    made.innerHTML = html;
    const sections = [...made.content.children], ids = new Set(sections.map((section) => section.id));
    for (const section of [...main.children]) if (!ids.has(section.id)) section.remove();
    let next = main.firstElementChild;
    for (const section of sections) {
      const mine = [...main.children].find((each) => each.id === section.id);
      if (mine) {
        change(mine, section);
        next = mine.nextElementSibling;
      } else main.insertBefore(section, next);
    }
  }

  async function look() {
    if (!document.hidden) {
      try {
        const address = new URL(location.href);
        address.searchParams.set('part', 'main');
        address.hash = '';
        const answer = await fetch(address, { cache: 'no-store', signal: AbortSignal.timeout(10000) });
        if (!answer.ok) throw new Error(String(answer.status));
        show(await answer.text());
        answered = new Date();
        lost.hidden = true;
      } catch (error) {
        lost.textContent = document.body.dataset.lost.replace('{time}', answered.toLocaleTimeString());
        lost.hidden = false;
      }
    }
    setTimeout(look, 1000 * every);
  }

  setTimeout(look, 1000 * every);
})();
