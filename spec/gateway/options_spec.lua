-- Wrong options keep nginx from starting, with a message that names the option; and the documentation has exactly the
-- options that exist.

local docs = require "support.docs"
local files = require "support.files"
local nginx = require "support.nginx"
local options_reader = require "icptoken.gateway.options"
local shell = require "support.shell"

local CONFIGURATION = [[
daemon off;
pid @DIR@/nginx.pid;
load_module @MODULES@/ndk_http_module.so;
load_module @MODULES@/ngx_http_lua_module.so;
events {}
http {
  client_body_temp_path @DIR@/body;
  proxy_temp_path @DIR@/proxy;
  fastcgi_temp_path @DIR@/fastcgi;
  uwsgi_temp_path @DIR@/uwsgi;
  scgi_temp_path @DIR@/scgi;
  lua_package_path "@ROOT@/lua/?.lua;;";
  lua_package_cpath "@ROOT@/build/luajit/?.so;;";
  @DICT@
  init_by_lua_block { @LUA@ }
}
]]

local function capture(command)
  local output = shell.run(command)
  return output
end

describe("the options of a gateway", function()
  local dir, root

  setup(function() dir, root = capture "mktemp -d && pwd":match "^(.-)\n(.-)\n" end)
  teardown(function() if dir then os.execute("rm -rf " .. dir) end end)

  -- Runs nginx with this in init_by_lua, where it exits. Returns its output, and why it exited: "accepted", or a line
  -- of the gateway's.
  local function try(lua, dict)
    local values = { DIR = dir, ROOT = root, MODULES = nginx.MODULES, LUA = lua .. ' error("accepted", 0)',
      DICT = dict or "lua_shared_dict icptoken 1m;" }
    files.write(dir .. "/nginx.conf", (CONFIGURATION:gsub("@(%u+)@", values)))
    local output = capture(("timeout 60 nginx -p %s -c %s/nginx.conf -e stderr 2>&1; echo $?"):format(dir, dir))
    assert.equal("1", output:match "(%d+)\n$", output)
    return output, assert(output:match "init_by_lua error: ([^\n]*)\n", output)
  end

  local function construct(options)
    return ('require("icptoken.gateway").new { host = "mycluster.icp", %s }'):format(options)
  end

  local function assert_accepted(lua, dict)
    local _, reason = try(lua, dict)
    assert.equal("accepted", reason)
  end

  local function assert_message(message, words)
    assert.matches("^icptoken%.gateway: ", message)
    for _, word in ipairs(words) do assert.matches(word, message, 1, true) end
    assert.is_nil(message:find("hunter2", 1, true))
  end

  local function assert_refused(lua, words, dict)
    local _, reason = try(lua, dict)
    assert_message(reason, words)
  end

  -- Each of several constructions is refused; one start of nginx tries all of them.
  local function assert_all_refused(list, words)
    local parts = {}
    for i, lua in ipairs(list) do
      parts[i] = ('io.stderr:write("tried: ", tostring(select(2, pcall(function() %s end))), "\\n") '):format(lua)
    end
    local count = 0
    for message in (try(table.concat(parts))):gmatch "tried: ([^\n]*)\n" do
      count = count + 1
      assert_message(message, words)
    end
    assert.equal(#list, count)
  end

  it("may all be set", function()
    assert_accepted(construct [[
      cacert = "/etc/ssl/certs/ca-certificates.crt", port = 8443, resolve = { ["mycluster.icp:8443"] = "10.0.0.5" },
      headers = { ["X-Team"] = "blue" }, retries = 1, connect_timeout = 5,
      service = "token-service", account = "a", client_id = "c", offline_token = true, timeout = 5, max_inflight = 4,
      max_queue = 10, max_passwords = 2, hedge_after = 0.5, client_address = "http_x_client",
      error_ttl = 0.5, challenge = "bearer", realm = "https://gate.example/login", token_user = "token",
      delete_actions = "delete", credential = function() end, scope = function() end, name = "gate", dict = "icptoken",
      request_id_header = "X-Request-Id",
      thread_pool = "icptoken",
    ]])
  end)

  it("may be just a host, or a URL", function()
    assert_accepted(construct "")
    assert_accepted 'require("icptoken.gateway").new { url = "https://mycluster.icp:8443/token" }'
  end)

  -- the option, wrong values in Lua, and words of the message
  for _, case in ipairs {
    { "name", { "1", '""', "{}" }, "must be a string" },
    { "request_id_header", { "1", '""', "{}" }, "must be the name of a header" },
    { "request_id_header", { '"a b"', '"Authorization"', '"host"', '"a:"', [["a\n"]] }, "that can be set" },
    { "request_id_header", { '"X-Team", headers = { ["x-team"] = "blue" }' }, "'headers'" },
    { "service", { "1", '""', "{}", "false" }, "must be a string" },
    { "service", { [["a\nb"]], [["a\0"]] }, "control character" },
    { "account", { [["a\nb"]] }, "control character" }, { "client_id", { [["a\nb"]] }, "control character" },
    { "account", { "1", '""' }, "must be a string" },
    { "client_id", { "1", '""' }, "must be a string" },
    { "offline_token", { '"yes"', "1" }, "must be a boolean" },
    { "delete_actions", { '""', "1", '"delete all"', '",delete"', '"delete:x"', [["a\n"]], "{}" }, "must be actions" },
    { "credential", { '"hunter2"', "{}", "true", '{ id_token = "hunter2" }' }, "must be a function" },
    { "scope", { '"repository:a:pull"', '{ "repository:a:pull" }' }, "must be a function" },
    { "challenge", { '"digest"', '"Basic"', "true", '""' }, 'must be "basic" or "bearer"' },
    { "realm", { "1", '""' }, "must be a string" },
    { "token_user", { "1", '""', "true", '"a:b"', [["a\nb"]] }, "must be a user name without a colon" },
    { "timeout", { "0", "-1", '"10"', "0/0", "math.huge", "{}" }, "must be a number of seconds above 0" },
    { "error_ttl", { "0", "-1", '"5"', "0/0", "math.huge" }, "must be a number of seconds above 0" },
    { "max_inflight", { "0", "-1", "1.5", '"8"', "0/0", "math.huge" }, "must be a whole number above 0" },
    { "hedge_after", { "0", "-1", "true", '"1"', "0/0" }, "must be a number of seconds above 0, or false" },
    { "client_address", { "1", '""', '"$remote_addr"', "{}", "true" }, "must be the name of a variable" },
    { "max_passwords", { "0", "-1", "1.5", '"8"', "0/0", "true" }, "must be a whole number above 0, or false" },
    { "max_queue", { "0", "-1", "1.5", '"8"', "0/0", "math.huge" }, "must be a whole number above 0" },
    { "dict", { "1", '""', "ngx.shared.icptoken" }, "must be the name of a lua_shared_dict" },
    { "thread_pool", { "1", '""', "{}" }, "must be the name of a thread_pool" },
  } do
    local name, values, words = case[1], case[2], case[3]

    it("refuse a wrong value for " .. name, function()
      local list = {}
      for i, value in ipairs(values) do list[i] = construct(("%s = %s"):format(name, value)) end
      assert_all_refused(list, { "option '" .. name .. "'", words })
    end)
  end

  for name, instead in pairs { id_token = "credential", id_token_file = "credential", username = "credential",
    password = "credential", login = "credential", anonymous = "credential", parallel = "max_inflight",
    cache_size = "dict" } do
    it("do not include " .. name, function()
      local list = {}
      for i, value in ipairs { '"hunter2"', "4", "true", "false", "function() end" } do
        list[i] = construct(("%s = %s"):format(name, value))
      end
      assert_all_refused(list, { "option '" .. name .. "' is not supported by the gateway", "use '" .. instead .. "'" })
    end)
  end

  it("are plain data except for the functions", function()
    for _, option in ipairs { "port", "cacert", "headers", "service_name", "key_password" } do
      assert_refused(construct(option .. " = function() end"), { "'" .. option .. "'", "plain data", "function" })
    end
    assert_refused(construct "headers = { A = function() end }", { "'headers'", "plain data", "function" })
    assert_refused(construct "resolve = { a = { b = { c = print } } }", { "'resolve'", "plain data", "function" })
    assert_refused(construct "proxy = coroutine.create(print)", { "'proxy'", "plain data", "thread" })
    assert_refused(construct "headers = { A = ngx.null }", { "'headers'", "plain data", "userdata" })
    assert_refused(construct "port = 8443LL", { "'port'", "plain data", "cdata" })
  end)

  -- options of the client, and words of the message
  for options, words in pairs {
    ["port = '8443'"] = { "option 'port'" }, ["port = 70000"] = { "option 'port'" },
    ["cacert = 1"] = { "option 'cacert'" }, ["insecure = 'hunter2'"] = { "option 'insecure'" },
    ["max_inflght = 4"] = { "'max_inflght'", "'max_inflight'" }, ["chalenge = 'basic'"] = { "'challenge'" },
    ["treads = 1"] = { "'treads'" }, ["hots = 1"] = { "'hots'", "'host'" },
    ["cacret = 'hunter2'"] = { "'cacret'", "'cacert'" },
    ["[1] = 'hunter2'"] = {}, ["[true] = 1"] = {}, ["completely_different = 1"] = { "'completely_different'" },
    ["url = 'https://a/b'"] = { "'url'" }, ["headers = { Authorization = 'hunter2' }"] = { "'headers'" },
    ["key = '/hunter2'"] = { "'key'", "'cert'" }, ["retries = -1"] = { "'retries'" },
    ["http_version = '3'"] = { "'http_version'" },
  } do
    it("are refused as by the client: " .. options, function() assert_refused(construct(options), words) end)
  end

  it("are a table with an endpoint", function()
    for _, lua in ipairs { "new()", "new('hunter2')", "new(1)", "new(true)", "new(print)" } do
      assert_refused('require("icptoken.gateway").' .. lua, { "table of options" })
    end
    assert_refused('require("icptoken.gateway").new {}', { "'host'", "'url'" })
  end)

  it("of a Bearer challenge need the URL of the realm", function()
    for _, options in ipairs { "", ", realm = 'IBM Cloud Private'", ", realm = 'ftp://a/b'", ", realm = 'https:/a'" } do
      assert_refused(construct("challenge = 'bearer'" .. options), { "'bearer'", "'realm'", "URL" })
    end
  end)

  it("name a dict that nginx has", function()
    assert_refused(construct "", { "lua_shared_dict icptoken 16m;" }, "")
    assert_refused(construct "dict = 'other'", { "lua_shared_dict other 16m;" })
    assert_accepted(construct "dict = 'other'", "lua_shared_dict other 1m;")
  end)

  it("are refused if nginx has no threads", function()
    assert_refused("ngx.run_worker_thread = nil " .. construct "", { "ngx.run_worker_thread", "--with-threads" })
  end)

  describe("in the documentation", function()
    local names = options_reader.list_names()
    table.sort(names)

    -- The rows of the table in docs/gateway.md: name and default.
    local function read_table()
      local defaults = {}
      for _, row in ipairs(docs.read_rows(docs.read_section("docs/gateway.md", "gateway.new"))) do
        for _, name in ipairs(docs.list_names(row[1])) do defaults[name] = row[2] end
      end
      return defaults
    end

    it("are the same as in the code", function()
      assert.same(names, docs.list_row_names("docs/gateway.md", "gateway.new"))
      assert.same(names, docs.list_types "GatewayOptions")
    end)

    it("are, with those of the module's client, all options of the module", function()
      local known, all = {}, {}
      for _, name in ipairs(options_reader.list_client_names()) do known[name] = true end
      for _, name in ipairs(names) do known[name] = true end
      for _, name in ipairs { "id_token", "id_token_file", "username", "password", "login", "anonymous", "parallel",
        "cache_size", "certificates" } do
        known[name] = true
      end
      local class = files.read "types/icptoken.lua":match "(%-%-%-@class icptoken%.Options.-)\n\n"
      for name in class:gmatch "%-%-%-@field ([%w_]+)" do
        all[name] = true
        assert.is_true(known[name], name)
      end
      for _, name in ipairs(options_reader.list_client_names()) do assert.is_true(all[name], name) end
    end)

    it("have the same defaults as in the code", function()
      local settings = options_reader.read { host = "mycluster.icp" }
      for name, default in pairs(read_table()) do
        local value = settings[name]
        if name == "name" then value = nil end -- described in words
        local written = default:match '^`"(.*)"`$' or tonumber(default) or nil
        assert.equal(value, written, name)
      end
    end)
  end)
end)
