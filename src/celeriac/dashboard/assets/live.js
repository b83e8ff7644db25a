// What pages do besides being read: they are up to date, keep what their reader is doing, and obey the keyboard.
// Without this script all of it is there, but for that: forms are posted, links are followed, pages are reloaded.

const body = document.body
const all = (selector, within = document) => [...within.querySelectorAll(selector)]
const here = () => location.pathname + location.search
const typing = (element) => element?.matches?.("input:not([type=checkbox], [type=radio]), textarea, select, [contenteditable]")

// --- Putting new HTML in the place of old -----------------------------------------------------------------------

// Elements stay as they are where they can: so focus, selection, scrolling, what was typed, and what was opened stay.
// They are matched by id or data-row, or else by their order.
function morph(old, fresh) {
  if (old.dataset.morph === "keep") return
  const here = old.matches(".here")
  for (const { name, value } of [...fresh.attributes]) if (old.getAttribute(name) !== value) old.setAttribute(name, value)
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && name !== "open") old.removeAttribute(name)
  }
  if (here) old.classList.add("here")
  if (old.matches("input, textarea, select") && !edited(old)) {
    if (old.type === "checkbox" || old.type === "radio") old.checked = fresh.checked
    else old.value = fresh.value
  }
  if (old.matches("time[data-at]") && old.firstChild) return  // `tick` writes it
  morphChildren(old, fresh)
}

function edited(input) {
  if (input === document.activeElement) return true
  if (input.type === "checkbox" || input.type === "radio") return input.checked !== input.defaultChecked
  if (input.tagName === "SELECT") return [...input.options].some((option) => option.selected !== option.defaultSelected)
  return input.type !== "hidden" && input.value !== input.defaultValue
}

// (`form.id` would be a field of that name.)
const keyOf = (node) => node.nodeType !== 1 ? "" :
  node.getAttribute("id") || node.dataset.row || node.getAttribute("aria-labelledby") || node.getAttribute("aria-label") || ""

function morphChildren(old, fresh) {
  const keyed = new Map([...old.children].filter(keyOf).map((child) => [keyOf(child), child]))
  const wanted = new Set([...fresh.children].map(keyOf).filter(Boolean))
  const stays = (node) => wanted.has(keyOf(node)) || (node.nodeType === 1 && node.matches(".stale-note"))
  let next = old.firstChild
  for (const child of [...fresh.childNodes]) {
    const match = keyOf(child) ? keyed.get(keyOf(child)) : similar(next, child)
    if (!match || match.nodeName !== child.nodeName) {
      old.insertBefore(child, next)
      continue
    }
    if (next && next.compareDocumentPosition(match) & Node.DOCUMENT_POSITION_FOLLOWING) {  // what is between has gone
      for (let node = next; node !== match;) {
        const after = node.nextSibling
        if (!stays(node)) {
          if (node === next) next = after
          node.remove()
        }
        node = after
      }
    }
    if (match === next) next = next.nextSibling
    else old.insertBefore(match, next)  // which closes popovers, so that it is the last resort
    if (match.nodeType === 1) morph(match, child)
    else if (match.nodeValue !== child.nodeValue) match.nodeValue = child.nodeValue
  }
  while (next) {
    const after = next.nextSibling
    if (next.nodeType !== 1 || !next.matches(".stale-note")) next.remove()
    next = after
  }
}

function similar(next, child) {
  if (child.nodeType !== 1) return next?.nodeType === child.nodeType ? next : null
  for (let node = next; node; node = node.nextSibling) if (node.nodeName === child.nodeName && !keyOf(node)) return node
  return null
}

const parsed = (html) => new DOMParser().parseFromString(html, "text/html")

// --- Fragments --------------------------------------------------------------------------------------------------

const waiting = new Set()  // names of fragments that have changed
const resting = new Set()  // … of those that are being fetched, or were a moment ago
const grouped = (fragments) => Map.groupBy(fragments, (one) => one.dataset.every)

// Fragments that are fetched equally often are fetched together. A slow one is fetched less often: no other waits for it.
function refresh() {
  if (document.hidden) return
  if (posting) return waiting.clear()  // what the form leads to is shown next
  const due = ({ dataset: { fragment } }) => waiting.has(fragment) && !resting.has(fragment)
  for (const fragments of grouped(all("[data-fragment]").filter(due)).values()) fetchAll(fragments)
}

async function fetchAll(fragments) {
  const url = new URL(location.href), at = here()
  for (const { dataset } of fragments) {
    waiting.delete(dataset.fragment)
    resting.add(dataset.fragment)
    url.searchParams.append("fragment", `${dataset.fragment}.${dataset.version}`)
  }
  try {
    const response = await fetch(url, { headers: { Accept: "text/html" } })
    if (response.status === 401) return signedOut()
    const fresh = parsed(await response.text()).body
    if (here() !== at) return
    for (const fragment of fragments) {
      const found = fresh.querySelector(`[data-fragment="${fragment.dataset.fragment}"]`)  // it is not there if it is the same
      if (!response.ok) stale(fragment, fresh.textContent.trim() || `The server answers with ${response.status}.`)
      else if (found?.matches("[data-fault]")) stale(fragment, found.textContent.trim())
      else {
        fragment.classList.remove("stale")
        fragment.querySelector(":scope > .stale-note")?.remove()
        if (found) morph(fragment, found)
      }
    }
    tick()
  } catch {
    // The server is away, which the stream finds, too.
  } finally {
    for (const [every, group] of grouped(fragments)) {
      setTimeout(() => {
        for (const { dataset } of group) resting.delete(dataset.fragment)
        refresh()
      }, 1000 * every)
    }
  }
}

function stale(fragment, why) {
  fragment.classList.add("stale")
  const note = fragment.querySelector(":scope > .stale-note") ?? document.createElement("p")
  note.className = "notice fault stale-note"
  note.textContent = `Not up to date. ${why}`
  fragment.prepend(note)
}

function changed(topics) {
  for (const { dataset } of all("[data-topics]")) {
    if (dataset.topics.split(" ").some((topic) => topics.includes(topic))) waiting.add(dataset.fragment)
  }
  refresh()
}

// --- The stream -------------------------------------------------------------------------------------------------

const LOST = 12_000  // milliseconds of silence after which the stream counts as lost
let stream, heard = 0

function connect() {
  if (stream || !body.dataset.live || document.hidden) return
  stream = new EventSource(body.dataset.live)
  stream.addEventListener("open", alive)
  stream.addEventListener("beat", alive)
  stream.addEventListener("changed", (event) => { alive(); changed(JSON.parse(event.data)) })
  stream.addEventListener("error", () => { if (stream?.readyState === EventSource.CLOSED) { disconnect(); again() } ; tell() })
}

function disconnect() {
  stream?.close()
  stream = undefined
}

async function again() {
  try {
    if ((await fetch(body.dataset.live.split("?")[0], { method: "HEAD" })).status === 401) return signedOut()
  } catch { /* it is away */ }
  setTimeout(connect, 2000)
}

function alive() {
  heard = Date.now()
  tell()
}

function tell() {
  const pulse = document.getElementById("pulse"), text = pulse?.querySelector(".pulse-text"), banner = document.getElementById("banner")
  if (!body.dataset.live || !pulse) return
  const silent = Date.now() - heard
  const lost = heard > 0 && (silent > LOST || stream?.readyState !== EventSource.OPEN && silent > 3000)
  pulse.classList.toggle("live", !lost && heard > 0)
  pulse.classList.toggle("lost", lost)
  text.textContent = lost ? "Not live" : heard ? "Live" : "Connecting"
  if (lost) banner.textContent = `The server cannot be reached. What you see is of ${words(silent / 1000)} ago.`
  banner.hidden = !lost && !banner.dataset.final
}

function signedOut() {
  disconnect()
  const banner = document.getElementById("banner")
  const link = document.createElement("a")
  link.href = `${body.dataset.prefix}/sign-in?back=${encodeURIComponent(location.pathname + location.search)}`
  link.textContent = "Sign in"
  banner.replaceChildren("You are signed out. ", link, " to go on.")
  banner.dataset.final = "yes"
  banner.hidden = false
  delete body.dataset.live
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) return disconnect()
  connect()
})
addEventListener("pagehide", disconnect)
addEventListener("pageshow", (event) => { if (event.persisted) connect() })

// --- Times ------------------------------------------------------------------------------------------------------

const SPACE = "\u202f"

function words(seconds) {
  for (const [unit, length] of [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]]) {
    if (seconds >= length) return `${Math.floor(seconds / length)}${SPACE}${unit}`
  }
  return `0${SPACE}s`
}

function tick() {
  const now = Date.now() / 1000
  for (const time of all("time[data-at]")) {
    const ago = now - Number(time.dataset.at)
    const text = Math.abs(ago) < 1 ? "now" : ago > 0 ? `${words(ago)} ago` : `in ${words(-ago)}`
    if (time.textContent !== text) time.textContent = text
  }
}

setInterval(() => { if (!document.hidden) { tick(); tell() } }, 1000)

// --- Forms ------------------------------------------------------------------------------------------------------

let posting = 0  // forms that are under way

document.addEventListener("submit", async (event) => {
  const form = event.target, button = event.submitter
  // A button may say where its form goes, and how. (`form.action` would be a field of that name.)
  const given = (name) => button?.getAttribute(`form${name}`) ?? form.getAttribute(name)
  const method = given("method")
  if (method !== "post" || form.matches(".who") || event.defaultPrevented) return
  event.preventDefault()
  const data = new URLSearchParams(new FormData(form, button))
  if (form.matches("#theme")) {
    document.documentElement.dataset.theme = data.get("theme")
    for (const one of all("button", form)) one.setAttribute("aria-pressed", String(one === button))
  }
  form.ariaBusy = "true"
  posting += !form.matches("#theme")
  try {
    const response = await fetch(given("action"), { method: "POST", body: data })
    const page = parsed(await response.text())
    if (!page.getElementById("main") || !page.body.dataset.prefix && body.dataset.prefix) return location.assign(response.url)
    form.closest("[popover]")?.hidePopover()
    form.reset()
    if (!form.matches("#theme")) adopt(page, response)
  } catch {
    const banner = document.getElementById("banner")
    banner.textContent = "The server cannot be reached, and it is not known whether this was done. Look before you try again."
    banner.hidden = false
  } finally {
    posting -= !form.matches("#theme")
    form.ariaBusy = null
  }
})

// Show what an action has led to: this page or another, without loading it, so that scrolling and the stream stay.
function adopt(page, response) {
  const url = new URL(response.redirected ? response.url : location.href)
  if (url.pathname + url.search !== here()) history.pushState(null, "", url)
  shown = here()
  document.title = page.title
  morphChildren(document.querySelector(".side"), page.querySelector(".side"))
  morphChildren(document.getElementById("main"), page.getElementById("main"))
  tick()
  const said = document.getElementById("said")
  if (said.textContent.trim()) said.scrollIntoView({ block: "nearest" })
  if (page.body.dataset.live === body.dataset.live) return
  disconnect()
  if (page.body.dataset.live) body.dataset.live = page.body.dataset.live
  else delete body.dataset.live
  connect()
}

let shown = here()
addEventListener("popstate", () => { if (here() !== shown) location.reload() })

document.addEventListener("change", (event) => {
  if (event.target.matches("[data-select-all]")) {
    for (const box of all("input[data-select]", event.target.closest("form, table") ?? document)) box.checked = event.target.checked
  }
  if (event.target.matches("[data-submit]")) event.target.form.requestSubmit()
})

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]")
  if (!button) return
  const text = button.dataset.copy, label = button.textContent
  if (navigator.clipboard) await navigator.clipboard.writeText(text)
  else {  // there is none on plain HTTP
    const area = Object.assign(document.createElement("textarea"), { value: text, className: "unseen" })
    body.append(area)
    area.select()
    document.execCommand("copy")
    area.remove()
  }
  button.textContent = "Copied"
  setTimeout(() => { button.textContent = label }, 1500)
})

// --- Suggestions ------------------------------------------------------------------------------------------------

// A list of words completes the last word of a search box: browsers complete the whole text.
for (const input of all("input[data-suggest]")) {
  const list = input.list, words = [...list.options].map((option) => option.value)
  input.addEventListener("input", () => {
    const at = input.value.lastIndexOf(" ") + 1, typed = input.value.slice(at).toLowerCase()
    const found = typed ? words.filter((word) => word.toLowerCase().includes(typed)).slice(0, 30) : []
    list.replaceChildren(...found.map((word) => Object.assign(document.createElement("option"), { value: input.value.slice(0, at) + word })))
  })
}

// --- Keyboard ---------------------------------------------------------------------------------------------------

let before = ""

function move(step) {
  const rows = all("tr[data-row]")
  if (!rows.length) return
  const here = rows.findIndex((row) => row.matches(".here"))
  const row = rows[here < 0 ? (step > 0 ? 0 : rows.length - 1) : Math.min(rows.length - 1, Math.max(0, here + step))]
  rows[here]?.classList.remove("here")
  row.classList.add("here")
  row.scrollIntoView({ block: "nearest" })
  const link = row.querySelector("th a[href]") ?? row.querySelector("a[href], input")
  link?.focus({ preventScroll: true })
}

const KEYS = {
  "/": () => document.querySelector("[type=search]")?.focus(),
  "?": () => document.getElementById("keys").showModal(),
  j: () => move(1),
  k: () => move(-1),
  x: () => document.querySelector("tr.here input[data-select]")?.click(),
}

// Whoever speaks to their browser presses single keys by accident: so they can be turned off, on this machine.
const NO_KEYS = "celeriac.no-keys"
const useKeys = document.getElementById("use-keys"), showKeys = document.getElementById("show-keys")
try { useKeys.checked = !localStorage.getItem(NO_KEYS) } catch { }  // the browser may keep nothing: then until the next page
useKeys.addEventListener("change", () => {
  try { useKeys.checked ? localStorage.removeItem(NO_KEYS) : localStorage.setItem(NO_KEYS, "yes") } catch { }
})
showKeys.addEventListener("click", KEYS["?"])
showKeys.hidden = false

document.addEventListener("keydown", (event) => {
  if (!useKeys.checked) return
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return
  if (typing(event.target)) { if (event.key === "Escape") event.target.blur(); return }
  const link = before === "g" && all("[data-key]").find((one) => one.dataset.key === `g ${event.key}`)
  before = event.key
  if (link) return link.click()
  if (!Object.hasOwn(KEYS, event.key)) return
  event.preventDefault()
  KEYS[event.key]()
})

tick()
connect()
