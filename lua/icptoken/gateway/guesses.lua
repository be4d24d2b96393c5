-- Limits how many different passwords of one user a client may try. Directories lock an account after a few wrong
-- passwords, wherever they come from; without a limit, one client could have any account locked through the gateway.
--
-- Passwords that had a token recently (known credentials) neither count nor are they subject to the limit: a client
-- that guesses keeps nobody from working. Clients are told apart by address, so that it does not keep the user from
-- logging in elsewhere, either.
--
-- The passwords that a client has tried are in a few lists in the dict, each for a part of all user names, so that a
-- client that makes up user names does not fill the dict. An entry is the beginning of a hash of the user name, and of
-- the key of the password. A list that is full admits no further password.
--
-- The functions take `context`: settings, store.

local key = require "icptoken.gateway.key"

local sub = string.sub

local guesses = {}

-- Directories commonly count the wrong passwords of this time.
local SECONDS = 15 * 60
-- For each client.
local LISTS, MAX_ENTRIES = 16, 64
local MARK_BYTES = 4
local ENTRY_BYTES = 2 * MARK_BYTES

local TOO_MANY = { code = "too_many_passwords" }

-- Directories ignore case and outer spaces in user names.
local function fold(username)
  return username:lower():match "^%s*(.-)%s*$"
end

-- Returns the key of the list in which a flight's password counts, and the marks of its user and of the password; nil
-- if the flight is not subject to the limit.
local function locate(context, flight)
  local settings = context.settings
  if not settings.max_passwords or not flight.client_address or not flight.request.password then return nil end
  local user = key.hash(fold(flight.request.username))
  local list_key = key.fingerprint { "guesses", settings.target.key, flight.client_address, user:byte(-1) % LISTS }
  return list_key, sub(user, 1, MARK_BYTES), sub(flight:get_verdict_key(), 1, MARK_BYTES)
end

-- Returns whether a list has a password of a user, and how many others of this user.
local function search(list, user, password)
  local has_password, others = false, 0
  for first = 1, #list, ENTRY_BYTES do
    if sub(list, first, first + MARK_BYTES - 1) == user then
      local is_same = sub(list, first + MARK_BYTES, first + ENTRY_BYTES - 1) == password
      has_password, others = has_password or is_same, others + (is_same and 0 or 1)
    end
  end
  return has_password, others
end

-- Returns a list without the passwords of a user.
local function remove(list, user)
  local kept = {}
  for first = 1, #list, ENTRY_BYTES do
    local entry = sub(list, first, first + ENTRY_BYTES - 1)
    if sub(entry, 1, MARK_BYTES) ~= user then kept[#kept + 1] = entry end
  end
  return table.concat(kept)
end

-- Returns whether a password may be added to a list or is in it, and whether it is in it.
local function may_try(context, list, user, password)
  local has_password, others = search(list, user, password)
  if has_password then return true, true end
  return others < context.settings.max_passwords and #list < MAX_ENTRIES * ENTRY_BYTES, false
end

--- Returns a failure if the client has tried too many other passwords for the flight's user, or nil.
function guesses.find_failure(context, flight)
  local list_key, user, password = locate(context, flight)
  if not list_key then return nil end
  return not may_try(context, context.store:get_guesses(list_key), user, password) and TOO_MANY or nil
end

--- Counts the flight's password before it is sent. Returns a failure if it must not be sent, or nil. (Two workers may
-- write a list at the same moment, and then one password does not count.)
function guesses.count(context, flight)
  local list_key, user, password = locate(context, flight)
  if not list_key then return nil end
  local list = context.store:get_guesses(list_key)
  local is_allowed, is_counted = may_try(context, list, user, password)
  if not is_allowed then return TOO_MANY end
  if not is_counted then context.store:put_guesses(list_key, list .. user .. password, SECONDS) end
  return nil
end

--- Forgets the passwords that the client has tried for the flight's user, as this one is right.
function guesses.clear(context, flight)
  local list_key, user = locate(context, flight)
  if not list_key then return end
  local list = context.store:get_guesses(list_key)
  context.store:put_guesses(list_key, remove(list, user), SECONDS)
end

return guesses
