-- docs/gateway.md: its configuration works unchanged, with the stub and a fake registry in place of the cluster; its
-- other examples load and work in it; and it names exactly the methods, metrics and codes that exist.

local cjson = require "cjson"
local docs = require "support.docs"
local files = require "support.files"
local gateway_bed = require "support.gateway_bed"
local load = require "support.load"
local nginx = require "support.nginx"
local shell = require "support.shell"

local PAGE = "docs/gateway.md"
local OWN_RESULTS = { "cached", "fresh", "login", "stale" }

local run_shell = shell.run

-- The text of the block that begins with this.
local function find_block(language, beginning)
  for _, block in ipairs(docs.list_blocks(PAGE, language)) do
    if block.text:sub(1, #beginning) == beginning then return block.text end
  end
  error(PAGE .. " has no block that begins with " .. beginning)
end

local function list_labels(text, metric, label)
  local set, names = {}, {}
  for value in text:gmatch("\n" .. metric .. '{[^}]*%f[%w]' .. label .. '="([^"]+)"') do
    if not set[value] then names[#names + 1] = value end
    set[value] = true
  end
  table.sort(names)
  return names
end

local function join(...)
  local all = {}
  for _, names in ipairs { ... } do
    for _, name in ipairs(names) do all[#all + 1] = name end
  end
  table.sort(all)
  return all
end

describe("the examples of the gateway's documentation", function()
  local bed, one

  -- Replaces names and files of the example's machine by those of this one.
  local function place(text)
    for _, change in ipairs {
      { "/etc/icp/ca.crt", bed.stub.ca }, { "/etc/icp/gateway.crt", bed.stub.server_cert },
      { "/etc/icp/gateway.key", bed.stub.server_key },
      { "https://mycluster.icp:8500", "http://127.0.0.1:" .. bed.upstream.port },
      { 'host = "mycluster.icp",', ('host = "mycluster.icp", port = %d, resolve = { ["mycluster.icp:%d"] = '
        .. '"127.0.0.1" },'):format(bed.stub.port, bed.stub.port) },
      { "listen 443 ssl;", "listen 127.0.0.1:@PORT@; listen 127.0.0.1:@PORTTLS@ ssl;" },
    } do text = docs.replace(text, change[1], change[2]) end
    return text
  end

  -- All nginx blocks in one configuration, except the one with the module's path.
  local function assemble()
    local main, http = find_block("nginx", "# main"):match "^(.-)http (%b{})"
    local locations = {}
    for _, block in ipairs(docs.list_blocks(PAGE, "nginx")) do
      if block.text:find "^location" then locations[#locations + 1] = block.text end
    end
    assert(#locations == 5)
    locations[#locations + 1] = [[location = /methods {
      content_by_lua_block { for name in pairs(getmetatable(gateway).__index) do ngx.say(name) end }
    }]]
    -- in the server, as the specs' nginx has no access log in http
    local include, access_log = find_block("nginx", "include"):match "^(include [^\n]*)\n(access_log [^\n]*)"
    locations[#locations + 1] = docs.replace(access_log, "/var/log/nginx/registry.json", "@DIR@/registry.json")
    http = docs.replace(place(http:sub(2, -2)), "location /v2/ {", table.concat(locations, "\n") .. "\nlocation /v2/ {")
    return main, docs.replace(include, "include /etc/nginx/audit.conf;", files.read "examples/nginx/audit.conf") .. http
  end

  local function start(change)
    local main, http = assemble()
    return nginx.start { main = main, http = change and change(http) or http, log_level = "notice" }
  end

  setup(function()
    bed = gateway_bed.open()
    one = start()
    bed.gateways[1] = one
  end)
  teardown(function() gateway_bed.close(bed) end)
  before_each(function() bed.stub:reset() end)

  it("pass a request on with a token for just its access", function()
    local answer = load.request(one.port, bed:request "/v2/default/app/manifests/1")
    assert.equal("repository:default/app:pull", gateway_bed.read_scopes(answer))
    assert.is_nil(gateway_bed.read_echo(answer).headers.cookie)
    assert.not_matches("%[warn%]", one:log())
    assert.not_matches("%[emerg%]", one:log())
  end)

  it("log the result of a request", function()
    local answer = load.request(one.port, bed:request "/v2/logged/manifests/1")
    assert.equal(200, answer.status)
    local line = gateway_bed.await("its line", function()
      return files.read(one.dir .. "/registry.json"):match '[^\n]*"scope":"repository:logged:pull"[^\n]*\n'
    end)
    assert.equal("fresh", cjson.decode(line).result)
  end)

  it("say that the gateway is ready", function()
    load.request(one.port, bed:request "/v2/")
    for _, target in ipairs { "/ready", "/live" } do
      assert.equal(200, load.request(one.port, { target = target }).status)
    end
  end)

  it("return a token", function()
    local headers = { ["X-ID-Token"] = bed.stub.id_token }
    local answer = load.request(one.port, { target = "/catalog-token", headers = headers })
    assert.equal(200, answer.status)
    assert.matches("^eyJ", answer.body)
  end)

  it("log in", function()
    local headers = { Authorization = "Basic YWRtaW46YWRtaW4=" }
    local answer = load.request(one.port, { target = "/login", headers = headers })
    assert.equal(200, answer.status)
    assert.matches('"token":"eyJ', answer.body)
  end)

  it("send the scheme of the client behind a load balancer", function()
    local block = find_block("nginx", "proxy_set_header")
    local behind = start(function(http)
      return docs.replace(http, "proxy_set_header X-Forwarded-Proto $scheme;", block)
    end)
    bed.gateways[2] = behind
    for _, row in ipairs { { one, "http" }, { behind, "https" } } do
      local echo = gateway_bed.read_echo(load.request(row[1].port, bed:request "/v2/"))
      assert.equal(row[2], echo.headers["x-forwarded-proto"])
    end
  end)

  it("find the module in another directory", function()
    local directory = run_shell "mktemp -d":gsub("\n", "")
    local block = find_block("nginx", "lua_package_path")
    files.write(directory .. "/nginx.conf", ([[
      pid %s/nginx.pid;
      load_module %s/ndk_http_module.so;
      load_module %s/ngx_http_lua_module.so;
      events {}
      http {
        client_body_temp_path %s/1; proxy_temp_path %s/2; fastcgi_temp_path %s/3; uwsgi_temp_path %s/4;
        scgi_temp_path %s/5;
        %s
        init_by_lua_block { error(package.path .. package.cpath, 0) }
      }]]):format(directory, nginx.MODULES, nginx.MODULES, directory, directory, directory, directory, directory,
      block))
    local output = run_shell(("timeout 60 nginx -p %s -c %s/nginx.conf -e stderr 2>&1"):format(directory, directory))
    run_shell("rm -rf " .. directory)
    assert.matches("/opt/gateway/share/lua/5.1/?.lua;", output, 1, true)
    assert.matches("/opt/gateway/lib/lua/5.1/?.so;", output, 1, true)
  end)

  -- Programs that replace real ones: name to script.
  local function run_block(text, programs)
    local directory = run_shell "mktemp -d":gsub("\n", "")
    for name, script in pairs(programs) do
      files.write(directory .. "/" .. name, "#!/bin/sh\n" .. script .. "\n")
      run_shell(("chmod 755 %s/%s"):format(directory, name))
    end
    files.write(directory .. "/block", text)
    -- maps every host for curl; their names are not in the stub's certificate
    files.write(directory .. "/.curlrc", ("connect-to = \"::127.0.0.1:%d\"\ninsecure\nsilent\n")
      :format(one.ports.PORTTLS))
    local output = run_shell((docs.AS_USER .. "CURL_HOME=%s DESTDIR=%s/root ID_TOKEN=%s PATH=%s:$PATH "
      .. "sh -e %s/block 2>&1; echo $?"):format(directory, directory, bed.stub.id_token, directory, directory))
    local installed = run_shell(("cd %s && find root -type f 2>/dev/null"):format(directory))
    run_shell("rm -rf " .. directory)
    assert.equal("0", output:match "(%d+)\n$", output)
    return output, installed
  end

  it("check the gateway", function()
    local output = run_block(find_block("sh", "curl -i"), { skopeo = 'echo "skopeo $*"' })
    local first, second, third = output:match "^(.-)(HTTP/1.1 200.-)\n?(skopeo.*)$"
    assert.matches("^HTTP/1.1 401 ", first)
    assert.matches('\r\nWWW%-Authenticate: Basic realm="IBM Cloud Private"\r\n', first)
    assert.matches("Docker%-Distribution%-Api%-Version: registry/2%.0", first)
    assert.matches('"target":"\\/v2\\/_catalog"', second, 1, true)
    assert.equal("skopeo login registry.example.com\n0\n", third)
  end)

  it("show the state as JSON", function()
    local output = run_block(find_block("sh", "curl -i -H"), {})
    assert.matches("^HTTP/1.1 200 .*\r\nContent%-Type: application/json\r\n.*\r\n\r\n{.*}\n0\n$", output)
  end)

  it("install what is needed", function()
    local block = find_block("sh", "apt install")
    local output, installed = run_block(block, { apt = 'echo "apt $*"' })
    local known = files.read "scripts/setup"
    for package in output:match "^apt install ([^\n]*)":gmatch "%S+" do assert.matches(package, known, 1, true) end
    assert.matches("root/usr/local/lib/lua/5.1/icptoken.so\n", installed, 1, true)
    assert.matches("root/usr/local/share/lua/5.1/icptoken/gateway.lua\n", installed, 1, true)
  end)

  it("are all tested here", function()
    local count = 0
    for _, block in ipairs(docs.read_blocks(PAGE)) do count = count + (block.language == "nginx" and 1 or 0) end
    assert.equal(9, count)
  end)

  it("name the methods", function()
    local in_code, in_docs = {}, {}
    for name in load.request(one.port, { target = "/methods" }).body:gmatch "%S+" do in_code[#in_code + 1] = name end
    for _, heading in ipairs(docs.list_headings(PAGE)) do
      local name = heading:match "^gateway:([%l_]+)$"
      if name then
        in_docs[#in_docs + 1] = name
        local section = docs.read_section(PAGE, heading)
        assert.matches("%*%*syntax:%*%* %*.-gateway:" .. name .. "%(", section)
        assert.matches("%*%*context:%*%* %*", section)
      end
    end
    table.sort(in_code)
    table.sort(in_docs)
    assert.same(in_code, in_docs)
    assert.same(in_code, docs.list_functions("gateway", ":"))
  end)

  describe("name", function()
    local metrics
    setup(function() metrics = load.request(one.port, { target = "/metrics" }).body end)

    it("the metrics and their types", function()
      local in_code, in_docs = {}, {}
      for name, kind in metrics:gmatch "\n# TYPE (%S+) (%S+)" do in_code[name] = kind end
      for _, row in ipairs(docs.read_rows(docs.read_section(PAGE, "gateway:metrics"))) do
        in_docs[row[1]:match "^`([%l_]+)`$"] = row[2]
      end
      assert.same(in_code, in_docs)
    end)

    it("the codes that a request can get", function()
      local codes = docs.list_row_names(PAGE, "What clients see")
      assert.same(list_labels(metrics, "icptoken_requests_total", "result"), join(codes, OWN_RESULTS))
      assert.same(codes, join(docs.list_types "Code", docs.list_types "GatewayCode"))
    end)

    it("the codes that a fetch can get", function()
      assert.same(list_labels(metrics, "icptoken_fetches_total", "code"),
        join(docs.list_types "Code", { "internal", "ok" }))
    end)
  end)
end)
