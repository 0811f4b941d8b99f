// Draws stages as buttons and what they wait for as curves; keeps each button, so that focus stays.
const WIDTH = 230, HEIGHT = 92, GAP_X = 64, GAP_Y = 22, PAD = 4
const SVG = "http://www.w3.org/2000/svg"

function make(tag, name) {
  const made = document.createElement(tag)
  made.className = name
  return made
}

function place(stage) {
  return [PAD + stage.column * (WIDTH + GAP_X), PAD + stage.row * (HEIGHT + GAP_Y)]
}

export function render({ model }) {
  const box = make("div", "graph")
  const lines = document.createElementNS(SVG, "svg")
  lines.setAttribute("aria-hidden", "true")
  box.append(lines)
  box.setAttribute("role", "group")
  box.setAttribute("aria-label", "Stages")
  const buttons = new Map()

  function button(name) {
    const made = make("button", "stage")
    made.type = "button"
    made.dataset.stage = name
    made.append(make("strong", "name"), make("span", "state"), make("span", "words"), make("span", "bar"))
    made.lastChild.append(make("i", ""))
    made.addEventListener("click", () => { model.selected = name })
    box.append(made)
    return made
  }

  function draw() {
    const known = new Map(model.stages.map((stage) => [stage.name, stage]))
    for (const [name, made] of buttons) if (!known.has(name)) { made.remove(); buttons.delete(name) }
    lines.replaceChildren()
    let right = 0, bottom = 0
    for (const stage of model.stages) {
      if (!buttons.has(stage.name)) buttons.set(stage.name, button(stage.name))
      const made = buttons.get(stage.name), [x, y] = place(stage)
      made.style.cssText = `left:${x}px;top:${y}px;width:${WIDTH}px;height:${HEIGHT}px;--chip:${stage.colour}`
      made.dataset.state = stage.state
      made.setAttribute("aria-pressed", String(stage.name === model.selected))
      made.title = stage.name
      made.querySelector(".name").textContent = stage.name
      made.querySelector(".state").textContent = `${stage.sign} ${stage.state}`
      made.querySelector(".words").textContent = stage.words
      made.querySelector("i").style.width = `${100 * stage.done}%`
      right = Math.max(right, x + WIDTH + PAD)
      bottom = Math.max(bottom, y + HEIGHT + PAD)
      for (const before of stage.after) {
        if (!known.has(before)) continue
        const [fromX, fromY] = place(known.get(before))
        const x0 = fromX + WIDTH, y0 = fromY + HEIGHT / 2, x1 = x, y1 = y + HEIGHT / 2
        // What waits for a stage further back goes round below those between.
        const over = stage.column - known.get(before).column > 1 && y0 === y1
        const dip = over ? y0 + HEIGHT / 2 + 16 : y0
        if (over) bottom = Math.max(bottom, dip + PAD)
        const curve = document.createElementNS(SVG, "path")
        curve.setAttribute("d", over
          ? `M${x0 - 30},${fromY + HEIGHT} Q${x0 - 30},${dip} ${x0},${dip} L${x1},${dip} Q${x1 + 30},${dip} ${x1 + 30},${y + HEIGHT + 8}`
          : `M${x0},${y0} C${x0 + GAP_X / 2},${y0} ${x1 - GAP_X / 2},${y1} ${x1 - 8},${y1}`)
        const tip = document.createElementNS(SVG, "path")
        tip.setAttribute("class", "tip")
        tip.setAttribute("d", over
          ? `M${x1 + 30},${y + HEIGHT} l-5,9 h10 z` : `M${x1},${y1} l-9,-5 v10 z`)
        lines.append(curve, tip)
      }
    }
    lines.setAttribute("width", right)
    lines.setAttribute("height", bottom)
    box.style.height = `${bottom}px`
  }

  model.on("stages", draw)
  model.on("selected", draw)
  draw()
  return box
}
