-- The answer of gateway:status(): the state (status.lua) as a page of HTML, or as JSON for a client that prefers it.
--
-- Each worker makes both at most once in MAX_AGE_SECONDS, so frequent page loads cost next to nothing. The page
-- contains its style sheet and its script, and the header Content-Security-Policy allows only these, by their hashes.
-- So a browser runs and loads nothing else, whatever a text of the state contains.

local accept = require "icptoken.gateway.accept"
local clock = require "icptoken.gateway.clock"
local key = require "icptoken.gateway.key"
local page_text = require "icptoken.gateway.page_text"
local status = require "icptoken.gateway.status"
local text = require "icptoken.gateway.text"

local page = {}

local MAX_AGE_SECONDS = 0.5
local HTML, JSON = "text/html", "application/json"
local NONE = "\226\128\147" -- an en dash

local function round(value, digits)
  local factor = 10 ^ digits
  return ("%." .. digits .. "f"):format(math.floor(value * factor + 0.5) / factor)
end

local function group(value)
  return (round(value, 0):reverse():gsub("%d%d%d", "%0,"):reverse():gsub("^,", ""))
end

-- The script has the same formats.
local formats = { text = tostring, count = group }

function formats.share(value) return round(value * 100, 1) .. " %" end

function formats.seconds(value)
  return value < 0.9995 and round(value * 1000, 0) .. " ms" or round(value, 1) .. " s"
end

function formats.bytes(value)
  return value < 2 ^ 20 and round(value / 2 ^ 10, 1) .. " KiB" or round(value / 2 ^ 20, 1) .. " MiB"
end

function formats.title(value) return value .. " " .. NONE .. " icptoken gateway" end

function formats.time(value) return os.date("!%Y-%m-%d %H:%M:%S UTC", math.floor(value)) end

function formats.ago(value, now)
  local seconds = math.max(0, math.floor(now - value))
  if seconds < 60 then return ("%d s ago"):format(seconds) end
  if seconds < 3600 then return ("%d min ago"):format(seconds / 60) end
  return seconds < 86400 and ("%d h ago"):format(seconds / 3600) or ("%d d ago"):format(seconds / 86400)
end

-- Splits a path such as "endpoint.state" into its names.
local function split(path)
  local names = {}
  for name in path:gmatch "[^.]+" do names[#names + 1] = name end
  return names
end

-- Returns the member of an item that has these names.
local function find(item, names)
  for _, name in ipairs(names) do
    if item == nil then return nil end
    item = item[name]
  end
  return item
end

local function is_empty(value)
  return not value or type(value) == "table" and next(value) == nil
end

-- The markup is prepared when nginx starts, so that a page is made by joining texts. What is prepared is a list of
-- texts, tags and lists. A tag has the class, the width and the `hidden` that its data- attributes determine, and
-- content that follows it.
local function prepare_tag(tag)
  local function get(attribute)
    local path = tag:match("%sdata%-" .. attribute .. '="([^"]+)"')
    return path and split(path)
  end
  local before, ending = tag:match "^(.-)(/?>)$"
  local one = { before = before, after_class = nil, ending = ending, level = get "level", width = get "width",
    condition = get "if", exception = get "unless", value = get "v",
    format = formats[tag:match '%sdata%-f="(%l+)"' or "text"] }
  if one.level and before:find('class="', 1, true) then
    one.before, one.after_class = before:match '^(.-class="[^"]*)(".*)$'
  end
  return one
end

-- Prepares markup without lists: appends it to `parts`.
local function prepare(parts, markup)
  local position = 1
  for first, tag, last in markup:gmatch "()(<%l[^<>]*%sdata%-[^<>]*>)()" do
    parts[#parts + 1] = markup:sub(position, first - 1)
    parts[#parts + 1] = prepare_tag(tag)
    position = last
  end
  parts[#parts + 1] = markup:sub(position)
  return parts
end

-- Prepares markup in which the <template> of a list stands behind the tag with the list's path.
local function prepare_lists(markup)
  local parts, position = {}, 1
  for first, template, last in markup:gmatch "()<template>(.-)</template>()" do
    local before = markup:sub(position, first - 1)
    prepare(parts, before)
    parts[#parts + 1] = "<template>" .. template .. "</template>"
    local path = before:match '.*data%-list="([%l_.]+)"'
    parts[#parts + 1] = { list = split(path), parts = prepare({}, template:match "^%s*(.-)%s*$") }
    position = last
  end
  return prepare(parts, markup:sub(position))
end

local function add(texts, text_added) texts[#texts + 1] = text_added end

local function fill_tag(texts, tag, item, now)
  local level = tag.level and find(item, tag.level)
  add(texts, tag.before)
  if tag.after_class then
    if level then add(texts, " " .. level) end
    add(texts, tag.after_class)
  elseif level then
    add(texts, (' class="%s"'):format(level))
  end
  if tag.width then add(texts, (' width="%s%%"'):format(round((find(item, tag.width) or 0) * 100, 1))) end
  if tag.condition and is_empty(find(item, tag.condition)) then add(texts, " hidden") end
  if tag.exception and not is_empty(find(item, tag.exception)) then add(texts, " hidden") end
  add(texts, tag.ending)
  if not tag.value then return end
  local value = find(item, tag.value)
  add(texts, value == nil and NONE or text.escape_html(tag.format(value, now)))
end

-- Adds what has been prepared to the texts of a page, with an item's values.
local function fill(texts, parts, item, now)
  for _, part in ipairs(parts) do
    if type(part) == "string" then
      add(texts, part)
    elseif part.list then
      for _, member in ipairs(find(item, part.list) or {}) do fill(texts, part.parts, member, now) end
    else
      fill_tag(texts, part, item, now)
    end
  end
end

-- The markup before the style sheet, between it and the script, and after that.
local HEAD, BODY, TAIL = page_text.markup:match "^(.-)@STYLE@(.-)@SCRIPT@(.*)$"
HEAD, BODY = prepare_lists(HEAD), prepare_lists(BODY)

local function make_html(state)
  local texts = {}
  fill(texts, HEAD, state, state.time)
  add(texts, page_text.style)
  fill(texts, BODY, state, state.time)
  add(texts, page_text.script)
  add(texts, TAIL)
  return table.concat(texts)
end

local function make_source(content)
  return ("'sha256-%s'"):format(ngx.encode_base64(key.hash(content)))
end

local POLICY = table.concat({ "default-src 'none'", "script-src " .. make_source(page_text.script),
  "style-src " .. make_source(page_text.style), "connect-src 'self'", "base-uri 'none'", "form-action 'none'",
  "frame-ancestors 'none'" }, "; ")

local MAKE = {
  [HTML] = make_html,
  [JSON] = function(state) return text.encode_json(state) .. "\n" end,
}

-- Returns the body of a type, which is at most MAX_AGE_SECONDS old.
local function get_body(self, media_type)
  local now, made = clock.now(), self.pages[media_type]
  if not made or now - made.at >= MAX_AGE_SECONDS then
    made = { at = now, body = MAKE[media_type](status.describe(self)) }
    self.pages[media_type] = made
  end
  return made.body
end

local function set_headers(media_type, body)
  local header = ngx.header
  header["Content-Type"] = media_type .. (media_type == HTML and "; charset=utf-8" or "")
  header["Content-Length"] = #body
  header["Content-Security-Policy"] = POLICY
  header["X-Content-Type-Options"] = "nosniff"
  header["Referrer-Policy"] = "no-referrer"
  header["Cache-Control"] = "no-store"
  header["Vary"] = "Accept"
end

--- Answers a request with the state of a gateway. self: a gateway; its field `pages` is a table of what was sent last.
function page.send(self)
  local method = ngx.req.get_method()
  if method ~= "GET" and method ~= "HEAD" then
    ngx.header["Allow"] = "GET, HEAD"
    return ngx.exit(405)
  end
  local media_type = accept.choose(ngx.var.http_accept, { HTML, JSON })
  local body = get_body(self, media_type)
  set_headers(media_type, body)
  if method == "GET" then ngx.print(body) end
end

return page
