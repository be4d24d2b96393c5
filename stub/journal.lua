-- The journal: an entry for each TCP connection and each request, in order of arrival. client.lua reads it over the
-- control connection. Without one, each request is printed on stderr, with credentials hidden.
-- It keeps at least the newest 10,000 entries and at most 20,000.

local socket_clock = require "cqueues"
local text = require "text"

local KEPT = 10000

local journal_methods = {}
local journal_meta = { __index = journal_methods }

function journal_methods:clear()
  self.entries = {}
  self.dropped = 0
  self.accepted = {}
end

local function drop_old(self)
  local kept = {}
  for i = #self.entries - KEPT + 1, #self.entries do
    kept[#kept + 1] = self.entries[i]
  end
  self.dropped = self.dropped + #self.entries - KEPT
  self.entries = kept
end

local function add_entry(self, entry)
  entry.time = socket_clock.monotime() + self.epoch_offset
  table.insert(self.entries, entry)
  if #self.entries >= 2 * KEPT then
    drop_old(self)
  end
end

--- Adds a connection. Returns its entry, with its serial number.
function journal_methods:add_connection(listener)
  self.serial = self.serial + 1
  self.accepted[listener] = (self.accepted[listener] or 0) + 1
  local entry = { type = "connect", listener = listener, connection = self.serial, requests = 0 }
  add_entry(self, entry)
  return entry
end

local SECRET_HEADERS = { authorization = true, ["proxy-authorization"] = true, cookie = true }

local function print_request(request)
  io.stderr:write(("%s %s %s HTTP/%s%s\n"):format(text.format_rfc3339(os.time()), request.listener, request.method,
    request.version, request.tls and " over " .. request.tls or ""))
  io.stderr:write("    ", request.target:gsub("[%c\127-\255]", "?"), "\n")
  for _, header in ipairs(request.headers) do
    local value = header[2]
    if SECRET_HEADERS[header[1]:lower()] then
      value = (value:match "^%a+ " or "") .. "(hidden)"
    end
    io.stderr:write("    ", (header[1] .. ": " .. value):gsub("[%c\127-\255]", "?"), "\n")
  end
end

--- Adds a request. The entry is the request itself, so fields that are set later show up, too.
function journal_methods:add_request(request, connection)
  connection.requests = connection.requests + 1
  request.type = "request"
  add_entry(self, request)
  if self.prints then
    local ok, why = pcall(print_request, request)
    if not ok then
      io.stderr:write("stub: cannot print a request: ", tostring(why), "\n")
    end
  end
end

--- Returns an empty journal. prints: whether each request is printed on stderr.
local function new_journal(prints)
  local journal = setmetatable({ serial = 0, prints = prints }, journal_meta)
  journal.epoch_offset = os.time() - socket_clock.monotime()
  journal:clear()
  return journal
end

return { new = new_journal }
