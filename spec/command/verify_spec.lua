-- icptoken verify: it agrees with a real docker-registry, and gives the reason.

local cjson = require "cjson"
local command = require "support.command"
local files = require "support.files"
local http = require "socket.http"
local ltn12 = require "ltn12"
local mutations = require "support.token_mutations"
local registry_server = require "support.registry"
local signing_key = require "icptoken.cli.signing_key"
local verdict = require "icptoken.cli.verdict"

local SCOPES = { { text = "registry:catalog:*", resource = "registry:catalog", actions = { "*" } } }
local SEED = tonumber(os.getenv "ICPTOKEN_SEED") or 20261126

local bed, maker, registry, bundle

setup(function()
  bed = command.open()
  maker = mutations.new(SEED)
  bundle = bed:write("bundle.pem", maker.bundle)
  registry = registry_server.start { service = "token-service", certificate = bundle, realm = "https://icp/token" }
end)
teardown(function()
  if registry then registry.stop() end
  if bed then bed:close() end
end)

-- The registry's answer to a request for the list of repositories with this token.
local function ask_registry(token)
  local _, status, headers = http.request { url = "http://" .. registry.address .. "/v2/_catalog", sink =
    ltn12.sink.null(),
    headers = { Authorization = "Bearer " .. token } }
  if status == 200 then return "accepted" end
  if status ~= 401 then return status == "closed" and "crash" or "status " .. tostring(status) end
  return headers["www-authenticate"]:match 'error="([^"]*)"'
end

local function judge(token)
  return verdict.judge(token, { bundle = signing_key.read_bundle("bundle.pem", files.read(bundle)),
    service = "token-service", issuer = "registry-token-issuer", scopes = SCOPES })
end

-- A token may become valid or expire between the two answers of the registry; then either of them is right.
local function compare(token, ask)
  local before = ask_registry(token)
  local result, about = ask(token)
  if result == before or result == ask_registry(token) then return result end
  error(("seed %d: the registry says %s, icptoken verify says %s of\n%s\n%s"):format(SEED, before, result, token,
    about or ""), 0)
end

local function describe_checks(judged)
  local lines = {}
  for _, check in ipairs(judged.checks) do
    lines[#lines + 1] = (check.ok and "ok   " or "FAIL ") .. check.name .. ": " .. check.text
  end
  return table.concat(lines, "\n")
end

local function by_library(token)
  local judged = judge(token)
  return judged.result, describe_checks(judged)
end

local function by_program(token, environment)
  local status, out, err = bed:run { "verify", "--json", "--cert", bundle, "--scope", "registry:catalog:*", stdin
    = token,
    env = environment }
  assert.equal("", err)
  local report = cjson.decode(out)
  assert.equal(report.result == "accepted" and 0 or 1, status)
  return report.result, out
end

local function compare_many(count, ask)
  local tally = {}
  for _ = 1, count do
    local result = compare(maker:make(), ask)
    tally[result] = (tally[result] or 0) + 1
  end
  return tally
end

local function show(tally)
  return ("seed %d: %d accepted, %d invalid_token, %d insufficient_scope, %d crash"):format(SEED, tally.accepted or 0,
    tally.invalid_token or 0, tally.insufficient_scope or 0, tally.crash or 0)
end

describe("icptoken verify and a real registry", function()
  it("agree on 150 tokens", function()
    local tally = compare_many(150, by_library)
    assert.is_true((tally.accepted or 0) > 15 and (tally.invalid_token or 0) > 15, show(tally))
  end)

  it("agree on 2,000 tokens #deep", function()
    local tally = compare_many(2000, by_library)
    print(show(tally))
    assert.is_true(tally.accepted > 200 and tally.invalid_token > 200 and tally.insufficient_scope > 20, show(tally))
  end)

  it("agree if it runs as a program", function()
    compare_many(15, by_program)
  end)

  it("agree if it has only the program openssl", function()
    compare_many(15, function(token) return by_program(token, { ICPTOKEN_OPENSSL = "program" }) end)
  end)
end)

describe("icptoken verify #short", function()
  local stub

  setup(function() stub = require "stub.client".share() end)
  teardown(function() if stub then stub:stop() end end)

  local function request()
    local status, out, err = bed:run { env = { ID_TOKEN = stub.id_token }, "token", "--catalog", command.flags(stub) }
    assert.same({ 0, "" }, { status, err })
    return out
  end

  local function verify(token, ...)
    return bed:run { "verify", "--cert", stub.token_signing_cert, stdin = token, ... }
  end

  it("says that a token is accepted", function()
    local token = request()
    local status, out, err = verify(token, "--scope", "registry:catalog:*")
    assert.same({ 0, "" }, { status, err })
    assert.matches("would accept the token for registry:catalog:*.\n", out, 1, true)
    assert.not_matches("FAIL", out, 1, true)
    assert.not_matches(token:match "([^.\n]+)\n$", out, 1, true)
    local path = bed:write("token.jwt", token)
    assert.equal(out:gsub("%(.-%)", ""), (select(2, verify("", "--scope", "registry:catalog:*",
      path)):gsub("%(.-%)", "")))
  end)

  it("names each reason for a refusal", function()
    local token = request()
    for _, case in ipairs {
      { { "--service", "other" }, "FAIL  audience    the token has 'token-service', the registry takes 'other'" },
      { { "--issuer", "other" }, "FAIL  issuer      the token has 'registry-token-issuer', the registry takes "
        .. "'other'" },
      { { "--scope", "repository:a/b:pull" }, "FAIL  access      repository:a/b:pull: pull is missing; the token "
        .. "allows "
        .. "registry:catalog:*" },
      { { "--cert", bundle }, "FAIL  key         kid '" } } do
      local status, out, err = verify(token, (table.unpack or unpack)(case[1]))
      assert.same({ 1, "" }, { status, err })
      assert.matches(case[2], out, 1, true)
      assert.matches("would refuse", out, 1, true)
    end
  end)

  it("says what is wrong with its arguments and files", function()
    local status, out, err = bed:run { "verify", stdin = "x" }
    assert.same({ 2, "" }, { status, out })
    assert.matches("--cert CERT", err, 1, true)
    for words, arguments in pairs { ["is not a scope"] = { "--scope", "pull" }, ["cannot read the token"] = {
      "/missing" } } do
      status, out, err = verify("x", (table.unpack or unpack)(arguments))
      assert.same({ words == "is not a scope" and 2 or 1, "" }, { status, out })
      assert.matches(words, err, 1, true)
    end
    assert.matches("no token on standard input", (select(3, verify "")), 1, true)
    status, out, err = bed:run { "verify", "--cert", bed:write("none", "x"), stdin = "x" }
    assert.same({ 1, "" }, { status, out })
    assert.matches("has no certificate", err, 1, true)
  end)

  it("has no secret among the arguments of openssl", function()
    local token = request()
    bed:write("bin/openssl", '#!/bin/sh\necho "$@" >>"$LOG"\nexec "$REAL" "$@"\n', "755")
    local status = verify(token)
    assert.equal(0, status)
    local _, out = bed:run { "verify", "--cert", stub.token_signing_cert, stdin = token, env = {
      ICPTOKEN_OPENSSL = "program", LOG = bed:path "log", REAL = command.shell "command -v openssl":match "%S+",
      PATH = bed:path "bin" .. ":" .. os.getenv "PATH" } }
    assert.matches("would accept", out, 1, true)
    local log = bed:read "log"
    assert.matches("-verify", log, 1, true)
    for part in token:gmatch "[^%.\n]+" do assert.not_matches(part, log, 1, true) end
  end)
end)
