-- The client of bench/rivals for what runs in nginx: requests for 100 repositories, one after the other, and then 1,000
-- a second for 20 of them, whether answered or not. Prints the seconds of the first part, and how many requests of the
-- second were answered in its time.
-- Usage: luajit bench/gateway/rivals.lua <url> <ID token file> <seconds>
package.path = "spec/?.lua;./?.lua;" .. package.path
package.cpath = "build/luajit/?.so;" .. package.cpath

local files = require "support.files"
local load = require "support.load"

local url, id_token_file, seconds = arg[1], arg[2], tonumber(arg[3])
local COLD, WARM, RATE = 100, 20, 1000
local port = tonumber(url:match ":(%d+)$")
local headers = { Authorization = "Bearer " .. files.read(id_token_file):match "%S+" }

local function request(n, kept)
  return load.perform(port, { target = ("/v2/default/app%d/manifests/latest"):format(n), headers = headers }, kept)
end

local cold, count = nil, 0
load.together(function()
  local start, kept = load.read_time(), {}
  for n = 1, COLD do assert(request(n, kept).status == 200) end
  cold = load.read_time() - start
end)
local start, tasks, kept = load.read_time(), {}, {}
for i = 1, RATE * seconds do
  tasks[i] = function()
    load.sleep(math.max(0, start + i / RATE - load.read_time()))
    local one = table.remove(kept) or {}
    local answer = request(i % WARM + 1, one)
    if answer.status == 200 and load.read_time() <= start + seconds + 0.1 then count = count + 1 end
    kept[#kept + 1] = one
  end
end
load.run_tasks(tasks)
print(cold, count)
