-- Points in time for people.

local times = {}

-- The years 1 to 9999.
local FIRST, LAST = -62135596800, 253402300799
local UNITS = { { 86400, "d" }, { 3600, "h" }, { 60, "min" }, { 1, "s" } }

--- "29 min": a number of seconds in its largest unit.
function times.span(seconds)
  seconds = math.floor(math.abs(seconds))
  for _, unit in ipairs(UNITS) do
    if seconds >= unit[1] then return ("%.0f %s"):format(math.floor(seconds / unit[1]), unit[2]) end
  end
  return "0 s"
end

--- "in 29 min" or "3 h ago".
function times.relative(point, now)
  -- as a float, because an integer may wrap around
  local seconds = point + 0.0 - (now or os.time())
  if seconds >= 0 then return "in " .. times.span(seconds) end
  return times.span(seconds) .. " ago"
end

--- "2026-11-26 18:00:00 UTC", or the number itself outside the range of the calendar.
function times.utc(point)
  if not (point >= FIRST and point <= LAST) then return ("%.0f"):format(point) end
  return os.date("!%Y-%m-%d %H:%M:%S UTC", math.floor(point))
end

--- The same in the format of RFC 3339.
function times.rfc3339(point)
  return os.date("!%Y-%m-%dT%H:%M:%SZ", math.floor(point))
end

local MONTHS = { Jan = 1, Feb = 2, Mar = 3, Apr = 4, May = 5, Jun = 6, Jul = 7, Aug = 8, Sep = 9, Oct = 10, Nov = 11,
  Dec = 12 }

-- Seconds since the epoch of a point in UTC. Years begin in March here, so that a leap day is a year's last.
local function from_calendar(year, month, day, hour, minute, second)
  if month <= 2 then year, month = year - 1, month + 12 end
  local days = 365 * year + math.floor(year / 4) - math.floor(year / 100) + math.floor(year / 400)
    + math.floor((153 * (month - 3) + 2) / 5) + day - 719469
  return ((days * 24 + hour) * 60 + minute) * 60 + second
end

local function parse(text, pattern, order)
  local found = { text:match(pattern) }
  local fields = {}
  for i, name in ipairs(order) do fields[name] = name == "month" and MONTHS[found[i]] or tonumber(found[i]) end
  for _, name in ipairs(order) do
    if not fields[name] then return nil end
  end
  return from_calendar(fields.year, fields.month, fields.day, fields.hour, fields.minute, fields.second)
end

--- "Sun, 06 Nov 1994 08:49:37 GMT" in seconds since the epoch, or nil.
function times.parse_http(text)
  return parse(text, "^%a+, (%d%d) (%a%a%a) (%d%d%d%d) (%d%d):(%d%d):(%d%d) GMT$",
    { "day", "month", "year", "hour", "minute", "second" })
end

--- "Nov  6 08:49:37 1994 GMT" in seconds since the epoch, or nil.
function times.parse_openssl(text)
  return parse(text, "^(%a%a%a)%s+(%d%d?) (%d%d):(%d%d):(%d%d) (%d+) GMT%s*$",
    { "month", "day", "hour", "minute", "second", "year" })
end

return times
