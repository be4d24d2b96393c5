-- nginx whose workers run scripts on Redis with gateway/redis.lua, as the flights of a gateway do.

local cjson = require "cjson"
local files = require "support.files"
local load = require "support.load"
local mime = require "mime"
local nginx = require "support.nginx"

local redis_bed = {}
local bed_methods = {}
local bed_meta = { __index = bed_methods }

-- /run takes { options, calls, count } as JSON: the option `fleet`, calls for run_all (each { text, key_count, ... }),
-- and how often to run them. Each run reports whether it took longer than its two time limits and a margin, compared
-- with a timer of the same worker that started with it.
local HTTP = [[
  lua_shared_dict icptoken 4m;
  %s
  init_by_lua_block {
    cjson = require "cjson"
    redis = require "icptoken.gateway.redis"
    fleet_options = require "icptoken.gateway.fleet_options"
    counters = require "icptoken.gateway.metrics".new("bed", %d, { redis = redis.RESULTS })
    store = require "icptoken.gateway.store".new(ngx.shared.icptoken, print)
    servers = {}
    function find_server(options)
      local name = cjson.encode(options)
      if not servers[name] then
        local counts = {}
        local metrics = { add = function(_, family, result)
          counters:add(family, result)
          counts[result] = (counts[result] or 0) + 1
        end }
        servers[name] = redis.new(fleet_options.read(options), store, metrics)
        servers[name].counts = counts
      end
      return servers[name]
    end
    function run(server, calls)
      local is_late = false
      local limit = server.settings.connect_timeout + server.settings.timeout + %f
      local timer = ngx.thread.spawn(function() ngx.sleep(limit) is_late = true end)
      local replies, problem = server:run_all(calls)
      local result = { replies = replies, problem = problem, is_late = is_late }
      ngx.thread.kill(timer)
      return result
    end
  }
  init_worker_by_lua_block { counters:open_row(ngx.worker.id()) }
  server {
    listen 127.0.0.1:@PORT@;
    add_header X-Worker $pid always;
    client_body_buffer_size 1m;
    location = /run {
      content_by_lua_block {
        ngx.req.read_body()
        local request = cjson.decode(ngx.req.get_body_data())
        local server, calls, results = find_server(request.options), {}, {}
        for i, call in ipairs(request.calls) do calls[i] = { redis.script(call[1]), unpack(call, 2) } end
        for i = 1, request.count do results[i] = run(server, calls) end
        ngx.print(cjson.encode(results))
      }
    }
    location = /options {
      content_by_lua_block {
        ngx.req.read_body()
        local ok, result = pcall(fleet_options.read, loadstring("return " .. ngx.req.get_body_data())())
        if ok then result.key, result.secret = #result.key, #result.secret end
        ngx.print(cjson.encode { ok, result })
      }
    }
    location = /names { content_by_lua_block { ngx.print(cjson.encode(fleet_options.list_names())) } }
    location = /start {
      content_by_lua_block {
        ngx.req.read_body()
        find_server(cjson.decode(ngx.req.get_body_data())):start()
      }
    }
    location = /available {
      content_by_lua_block {
        ngx.req.read_body()
        ngx.print(tostring(find_server(cjson.decode(ngx.req.get_body_data())):is_available()))
      }
    }
    location = /forge {
      content_by_lua_block {
        ngx.req.read_body()
        local dict, forged = ngx.shared.icptoken, 0
        for _, name in ipairs(dict:get_keys(0)) do
          if name:find "^b" then dict:set(name, ngx.req.get_body_data() or "") forged = forged + 1 end
        end
        ngx.print(forged)
      }
    }
    location = /count {
      content_by_lua_block {
        ngx.req.read_body()
        ngx.print(find_server(cjson.decode(ngx.req.get_body_data())).counts[ngx.var.arg_result] or 0)
      }
    }
  }
]]

-- Longer than a busy machine pauses a worker, and far less than what is to be noticed here: a reply that takes 20 s, a
-- lookup that takes 30 s, and a server that never answers.
local MARGIN_SECONDS = 3

--- A script that returns its argument.
redis_bed.ECHO = "return ARGV[1]"
--- A script that writes its argument and returns what was there.
redis_bed.SWAP = "local old = redis.call('get', KEYS[1]) redis.call('set', KEYS[1], ARGV[1], 'px', 60000) return old"

--- Starts it. options: `http` (more text inside http {}), `workers` (1). Fields: port, server (the nginx).
function redis_bed.open(options)
  options = options or {}
  local self = setmetatable({ temporary = {} }, bed_meta)
  local workers = options.workers or 1
  local ok, server = pcall(nginx.start, { workers = workers,
    http = HTTP:format(options.http or "", workers, MARGIN_SECONDS) })
  if not ok then
    self:close()
    error(server, 2)
  end
  self.server, self.port = server, server.port
  return self
end

--- Stops it, also if open failed. For busted's teardown.
function redis_bed.close(self)
  if not self then return end
  if self.server then self.server:stop() end
  for _, path in ipairs(self.temporary) do os.remove(path) end
end

bed_methods.close = redis_bed.close

--- The path of a new file with a text, which only its owner can read.
function bed_methods:write_private(text)
  local path = os.tmpname()
  self.temporary[#self.temporary + 1] = path
  os.execute("chmod 600 " .. path)
  files.write(path, text)
  return path
end

local function make_secret()
  local random = assert(io.open("/dev/urandom", "rb"))
  local secret = mime.b64(random:read(32))
  random:close()
  return secret .. "\n"
end

--- The option `fleet` for a Redis at a port of this machine, with time limits for a busy machine. Its secret is new, so
-- its breaker is closed even if the system has assigned the port of a server that failed before. fields: more fields,
-- which replace these.
function bed_methods:make_options(port, fields)
  local options = { redis = port and ("redis://127.0.0.1:%d"):format(port),
    secret_file = self:write_private(make_secret()), timeout = 10, connect_timeout = 10 }
  for name, value in pairs(fields or {}) do options[name] = value end
  return options
end

local function post(self, target, value)
  local body = cjson.encode(value)
  local answer = load.perform(self.port, { method = "POST", target = target, body = body })
  assert(answer.status == 200, (answer.problem or answer.body or "") .. "\n" .. self.server:log())
  return answer
end

--- Runs calls ({ text, key_count, ... } each) in one pipeline, `count` times (once). Returns a list of results: {
-- replies or nil, problem, is_late }.
function bed_methods:run(options, calls, count)
  return cjson.decode(post(self, "/run", { options = options, calls = calls, count = count or 1 }).body)
end

--- Runs calls once. Returns the result and the process id of the worker.
function bed_methods:run_in_worker(options, calls)
  local answer = post(self, "/run", { options = options, calls = calls, count = 1 })
  return cjson.decode(answer.body)[1], answer.headers["x-worker"]
end

--- Runs a script without keys once. Returns its reply, false if Redis returned an error, or nil and a text.
function bed_methods:echo(options, text)
  local result = self:run(options, { { redis_bed.ECHO, 0, text } })[1]
  if not result.replies then return nil, result.problem end
  return result.replies[1]
end

--- Has nginx read a value of the option `fleet`, given as Lua text. Returns true and the settings, with the lengths of
-- key and secret in their place; or false and the message.
function bed_methods:read_options(text)
  local answer = load.perform(self.port, { method = "POST", target = "/options", body = text })
  assert(answer.status == 200, self.server:log())
  return unpack(cjson.decode(answer.body))
end

--- The names of the fields of the option.
function bed_methods:list_option_names()
  return cjson.decode(load.request(self.port, { target = "/names" }).body)
end

--- Calls its start() in a worker, as gateway:start does in one worker.
function bed_methods:start(options)
  post(self, "/start", options)
end

--- Whether Redis is to be used.
function bed_methods:is_available(options)
  return post(self, "/available", options).body == "true"
end

--- Replaces all records of breakers in the dict by this one. Returns how many there were.
function bed_methods:forge_records(bytes)
  return tonumber(load.perform(self.port, { method = "POST", target = "/forge", body = bytes }).body)
end

--- How many exchanges with these options had this result, in a bed with one worker. The breaker of a server that an
-- earlier spec has stopped still tries it, which is not counted here.
function bed_methods:count(options, result)
  return tonumber(post(self, "/count?result=" .. result, options).body)
end

--- The gateway's lines in the log that contain these words, each with its level before it and without what nginx adds.
function bed_methods:list_lines(words)
  local lines = {}
  for level, text in self.server:log():gmatch "%[(%l+)%] [^\n]- icptoken: ([^\n]*)" do
    local line = level .. ": " .. text:gsub(", context: .*$", ""):gsub(", client: .*$", "")
    if line:find(words, 1, true) then lines[#lines + 1] = line end
  end
  return lines
end

return redis_bed
