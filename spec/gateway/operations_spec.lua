-- docs/operations.md: its commands, run on gateways that are really broken, print what it says.

local docs = require "support.docs"
local gateway_bed = require "support.gateway_bed"
local load = require "support.load"
local registry_bed = require "support.registry_bed"
local scripts = require "support.scripts"

local PAGE = "docs/operations.md"

describe("a command in docs/operations.md", function()
  local bed, gate
  setup(function() bed = gateway_bed.open() end)
  teardown(function() gateway_bed.close(bed) end)
  before_each(function() bed.stub:reset() end)
  after_each(function()
    if gate then gate:stop() end
    gate = nil
  end)

  local function start(gateway_options, more)
    local options = { gateway = gateway_options, locations = "access_log @DIR@/access.log;" }
    for name, value in pairs(more or {}) do options[name] = value end
    gate = bed:start(options)
  end

  -- Runs the block that begins with these words, with this machine's names and files, and returns what it prints.
  local function run(beginning)
    local text
    for _, block in ipairs(docs.list_blocks(PAGE, "sh")) do
      if block.text:sub(1, #beginning) == beginning then text = block.text end
    end
    assert(text, PAGE .. " has no block that begins with " .. beginning)
    for _, change in ipairs {
      { "https://127.0.0.1/metrics", ("http://127.0.0.1:%d/metrics"):format(gate.port) },
      { "https://registry.example.com", ("http://127.0.0.1:%d"):format(gate.port) },
      { "/var/log/nginx/", gate.dir .. "/" }, { "$ID_TOKEN", bed.stub.id_token },
      { "mycluster.icp:8443", "localhost:" .. bed.stub.port }, { "mycluster.icp", "localhost" },
      { "/etc/icp/ca.crt", bed.stub.ca }, { "sudo nginx -T", ("nginx -T -c %s/nginx.conf"):format(gate.dir) },
    } do
      text = text:gsub(change[1]:gsub("%p", "%%%0"), (change[2]:gsub("%%", "%%%%")))
    end
    return scripts.shell("{ " .. text .. "} 2>/dev/null")
  end

  local function request_new(number, headers)
    return load.request(gate.port, bed:request(("/v2/app%d/manifests/1"):format(number), "GET", headers))
  end

  it("shows that the CA is the wrong one", function()
    start(("cacert = %q"):format(bed.stub.other_ca))
    request_new(1)
    assert.matches("requests to https://localhost:%d+ fail: cannot verify the certificate", run "grep 'icptoken: '")
    local metrics = run "curl -sk"
    assert.matches('\nicptoken_endpoint_up{[^}]*endpoint="token"} 0\n', metrics)
    assert.matches('\nicptoken_fetches_total{[^}]*code="tls"} 1\n', metrics)
    assert.is_nil(metrics:find "#")
    assert.matches("^ *Issuer: CN *= *stub CA\n *Not After.-\n *Subject: CN *= *localhost\n"
      .. " *Issuer: CN *= *stub CA\n *Not After.-\n *Subject: CN *= *stub CA%s*$", run "openssl s_client")
  end)

  it("shows which answer clients get", function()
    start("")
    local working = run "curl -i"
    assert.matches("^HTTP/1.1 401", working)
    assert.matches('WWW%-Authenticate: Basic realm="IBM Cloud Private"', working)
    assert.matches("HTTP/1.1 200 OK.-registry:catalog:%*\n?$", working .. table.concat(bed.stub:last().query.scope))
    gate:stop()
    bed.stub:reset()
    bed.stub:plan { status = 500, times = "forever" }
    start("")
    assert.matches('HTTP/1.1 502 .*"code":"server_error"', run "curl -i")
  end)

  it("shows who sends credentials that are refused", function()
    start("")
    for i = 1, 3 do request_new(i, { Authorization = registry_bed.to_basic("somebody", "guess " .. i) }) end
    request_new(4)
    -- nginx writes the line after it has answered
    gateway_bed.await("the lines in the access log", function()
      return run("awk"):find "^ +3 127%.0%.0%.1 %- somebody%s*$"
    end)
  end)

  it("shows that the gateway is not started", function()
    start("", { main = "thread_pool other threads=1;" })
    local found = run "sudo nginx -T | grep -e init_worker"
    assert.matches("thread_pool icptoken threads=16;.*init_worker_by_lua_block", found)
    assert.matches("thread_pool other", run "sudo nginx -T | grep -e thread_pool")
    gate:stop()
    start([[thread_pool = "absent"]])
    request_new(1)
    assert.matches("cannot use thread_pool 'absent' %(thread pool absent not found%): add", run "grep 'icptoken: '")
    local metrics = run "curl -sk"
    assert.matches('\nicptoken_requests_total{[^}]*result="not_started"} 1\n', metrics)
    assert.matches("icptoken_workers{[^}]*} 2\nicptoken_workers_started{[^}]*} 0\n", metrics)
  end)

  local FAULTS = {
    IcptokenEndpointFailingFast = function()
      start ""
      bed.stub:plan { status = 500 }
      request_new(1)
    end,
    IcptokenTokensRejected = function()
      start ""
      local headers = { ["X-Test-Status"] = "401", ["X-Test-Challenge"] = [[Bearer error="invalid_token"]] }
      for _ = 1, 3 do request_new(1, headers) end
    end,
    IcptokenThreadsShort = function()
      start("", { workers = 1, servers = "lua_worker_thread_vm_pool_size 2;" })
      bed.stub:plan { delay = { before = 0.5 }, times = "forever" }
      load.run(gate.port, 8, function(i) return bed:request(("/v2/app%d/manifests/1"):format(i)) end)
    end,
    IcptokenInternalErrors = function()
      start [[credential = function() error "out of order" end]]
      request_new(1)
    end,
  }

  it("finds in the log what a runbook says", function()
    local count = 0
    for _, heading in ipairs(docs.list_headings(PAGE)) do
      local quoted = docs.read_section(PAGE, heading):match "%*%*See%.%*%* The log has `([^`]+)`"
      if quoted and FAULTS[heading] then
        count = count + 1
        bed.stub:reset()
        FAULTS[heading]()
        local pattern = quoted:gsub("%s+", " "):gsub("%p", "%%%0"):gsub("…", ".-")
        gateway_bed.await("the line of " .. heading, function() return gate:log():find(pattern) end)
        gate:stop()
      end
    end
    assert.equal(4, count)
  end)
end)
