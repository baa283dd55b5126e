// Two images on top of each other: a slider between them, a flip by key, row after row.
const make = (tag, facts = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(facts)) {
    if (name in node && name !== 'list') node[name] = value; else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
};
const shots = () => [...element.querySelectorAll('.shot[data-src]')].map((shot) => shot.dataset);

const sides = ['left', 'right'].map((side) => ({
  picture: make('img', {className: `detail-${side}`, alt: '', draggable: false}),
  choice: make('select', {ariaLabel: `Image on the ${side}`}),
  save: make('a', {className: 'plain-button', textContent: `Save ${side}`,
    title: 'Download the image with its settings'}),
}));
const [left, right] = sides;
const range = make('input', {type: 'range', min: 0, max: 100, value: 50, step: 0.5,
  className: 'detail-range', ariaLabel: 'Share of the left image'});
const stage = make('div', {className: 'detail-stage'}, right.picture, left.picture,
  make('i', {className: 'detail-edge', ariaHidden: 'true'}));
const title = make('h3', {id: 'detail-title'});
const button = (text, hint, act) =>
  make('button', {type: 'button', className: 'plain-button', textContent: text, title: hint,
    onclick: act});
const count = make('span', {className: 'note'});
const bar = make('div', {className: 'detail-bar'}, left.choice, range, right.choice);
const foot = make('div', {className: 'detail-bar detail-foot'},
  button('Flip', 'Key F: swap left and right in place', () => flip()),
  button('Previous', 'Key Page up', () => move(-1)), count,
  button('Next', 'Key Page down', () => move(1)),
  button('Full screen', 'Key S', () => fill()), left.save, right.save,
  button('Close', 'Key Escape', () => dialog.close()));
const dialog = make('dialog', {className: 'detail', 'aria-labelledby': 'detail-title'},
  title, stage, bar, foot);
document.querySelectorAll('dialog.detail').forEach((old) => old.remove());
document.body.append(dialog);

let groups = [], group = 0, flipped = false, chosen = ['', ''];
const place = () => stage.style.setProperty('--share', `${range.value}%`);
const flip = () => { flipped = !flipped; range.value = flipped ? 100 : 0; place(); };
const fill = () => document.fullscreenElement ? document.exitFullscreen()
  : dialog.requestFullscreen && dialog.requestFullscreen();

const show = () => {
  const own = groups[group][1];
  title.textContent = `${own[0].prompt} · seed ${own[0].seed}`;
  count.textContent = `${group + 1} of ${groups.length}`;
  sides.forEach((side, number) => {
    if (!own.some((one) => one.label === chosen[number])) {
      chosen[number] = own[number ? own.length - 1 : 0].label;
    }
    const one = own.find((one) => one.label === chosen[number]);
    side.choice.replaceChildren(...own.map((each) => make('option',
      {value: each.label, textContent: each.label, selected: each.label === one.label})));
    side.picture.src = one.src;
    side.picture.alt = one.label;
    side.save.href = one.src;
    side.save.download = one.save;
  });
};
const move = (step) => { group = (group + step + groups.length) % groups.length; show(); };
const open = (shot) => {
  const byGroup = new Map();
  for (const one of shots()) {
    byGroup.set(one.group, [...(byGroup.get(one.group) || []), one]);
  }
  groups = [...byGroup];
  group = groups.findIndex(([name]) => name === shot.group);
  const labels = groups[group][1].map((one) => one.label);
  // Compare the pressed image with the one before it; the first with the second.
  const at = Math.max(1, labels.indexOf(shot.label));
  chosen = labels.length > 1 ? [labels[at - 1], labels[at]] : [shot.label, shot.label];
  flipped = false;
  range.value = 50;
  place();
  show();
  dialog.showModal();
  range.focus();
};

sides.forEach((side, number) => {
  side.choice.onchange = () => { chosen[number] = side.choice.value; show(); };
});
range.oninput = place;
const drag = (event) => {
  const box = stage.getBoundingClientRect();
  range.value = 100 * (event.clientX - box.left) / box.width;
  place();
};
stage.onpointerdown = (event) => { stage.setPointerCapture(event.pointerId); drag(event); };
stage.onpointermove = (event) => { if (event.buttons) drag(event); };
const keys = {f: flip, F: flip, s: fill, S: fill, PageUp: () => move(-1), PageDown: () => move(1)};
dialog.addEventListener('keydown', (event) => {
  if (event.target.tagName === 'SELECT' || event.ctrlKey || event.metaKey || event.altKey) return;
  if (keys[event.key]) { keys[event.key](); event.preventDefault(); }
});
dialog.addEventListener('click', (event) => { if (event.target === dialog) dialog.close(); });
element.addEventListener('click', (event) => {
  const shot = event.target.closest('button.shot-box');
  if (shot) open(shot.parentElement.dataset);
});
