-- Another program's credential helper, which the configuration names, for user names and passwords, as icptoken keeps
-- none.

local failure = require "icptoken.cli.failure"
local process = require "icptoken.cli.process"

local store = {}

local PREFIX = "docker-credential-"

-- docker's configuration has the name without its prefix; both are understood.
local function find_program(name)
  if name:find "/" then return name end
  if name:sub(1, #PREFIX) ~= PREFIX then name = PREFIX .. name end
  if name == PREFIX .. "icptoken" then
    failure.fail("configuration", "'credential_store' names icptoken itself: name a helper that keeps passwords, such "
      .. "as docker-credential-pass or docker-credential-secretservice")
  end
  return name
end

--- Calls a helper. action: get, store, erase or list. Returns its exit status and its output.
function store.call(name, action, input)
  return process.run({ find_program(name), action }, input)
end

return store
