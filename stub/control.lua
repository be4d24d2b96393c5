-- The control port: each line is a command in JSON and gets a line of JSON in reply. The stub exits when the first
-- connection closes, so it does not outlive the process that started it.

local cqueues = require "cqueues"
local cqueues_socket = require "cqueues.socket"
local cjson = require "cjson"
local answers = require "answers"
local misbehave = require "misbehave"
local plan = require "plan"
local text = require "text"
local token_endpoint = require "token_endpoint"

local FIRST_CONNECTION_SECONDS = 60

local commands = {}

function commands.plan(icp, command)
  icp.plan:append(command.orders)
  return { ok = true }
end

function commands.reset(icp)
  icp:restore()
  return { ok = true }
end

function commands.log(icp)
  return { requests = icp.journal.entries, accepted = icp.journal.accepted, dropped = icp.journal.dropped }
end

function commands.set(icp, command)
  command["do"] = nil
  icp:set(command)
  return { ok = true }
end

--- Returns the size of the answer to a token request under this order.
function commands.render(icp, command)
  local order = plan.check_order(command.order or {})
  local target = command.target or token_endpoint.PATH
  local path, query = text.parse_target(target)
  local request = {
    version = "1.1", method = "GET", target = target, path = path, query = query, body = "",
    headers = { { "Authorization", command.authorization or "Bearer " .. icp.id_token } },
  }
  local bytes, head_length = misbehave.render(answers.build(icp, request, order), order)
  return { length = #bytes, head = head_length }
end

function commands.stop(icp)
  icp:stop()
  return { ok = true }
end

local function obey(icp, line)
  local command = cjson.decode(line)
  local perform = commands[command["do"]]
  if not perform then
    error("unknown command " .. tostring(command["do"]), 0)
  end
  return perform(icp, command)
end

local function serve_control(icp, socket)
  socket:setmode("b", "bf")
  socket:setvbuf("full", math.huge)
  socket:setmaxline(64 * 1024 * 1024)
  socket:onerror(function(_, _, code) return code end)
  for line in function() return socket:xread "*l" end do
    local ok, result = pcall(obey, icp, line)
    if not ok then
      result = { error = tostring(result) }
    end
    socket:xwrite(cjson.encode(result) .. "\n", "n")
  end
  socket:close()
end

--- Opens the control port and returns its number.
local function open(icp)
  local listening = cqueues_socket.listen { host = "127.0.0.1", port = 0 }
  assert(listening:listen())
  local _, _, port = listening:localname()
  local has_lifeline = false
  icp.loop:wrap(function()
    for socket in listening:clients() do
      local is_lifeline = not has_lifeline
      has_lifeline = true
      icp.loop:wrap(function()
        serve_control(icp, socket)
        if is_lifeline then
          icp:stop()
        end
      end)
    end
  end)
  icp.loop:wrap(function()
    cqueues.sleep(FIRST_CONNECTION_SECONDS)
    if not has_lifeline then
      icp:stop()
    end
  end)
  return port
end

return { open = open }
