-- TLS: which servers a client trusts, what it reports if it does not, and how it presents its own certificate.

local files = require "support.files"
local icptoken = require "icptoken"
local interpreter = require "support.interpreter"
local shell = require "support.shell"
local stub_client = require "stub.client"
local testkit = require "testkit"

local WRONG_PIN = "sha256//" .. ("A"):rep(43) .. "="

local stub
local made_paths

local function options(changes)
  local all = { host = "localhost", port = stub.port, cacert = stub.ca, id_token = stub.id_token, timeout = 100,
    connect_timeout = 100 }
  for name, value in pairs(changes or {}) do all[name] = value or nil end
  return all
end

local function accept(changes)
  local token, message = icptoken.fetch(options(changes))
  assert.is_nil(message)
  assert.is_string(token.token)
end

local function refuse(changes, ...)
  local token, message, code, details = icptoken.fetch(options(changes))
  assert.is_nil(token)
  assert.equal("tls", code, message)
  for _, words in ipairs { ... } do assert.matches(words, message, 1, true) end
  assert.is_false(details.retryable)
  assert.equal(1, details.attempts)
end

local function make_path(content)
  local path = os.tmpname()
  table.insert(made_paths, path)
  if content then files.write(path, content) end
  return path
end

local function make_directory()
  local path = make_path()
  os.remove(path)
  assert(os.execute("mkdir -m 700 " .. interpreter.quote(path)))
  return path
end

local function run(command)
  local output = shell.run(command .. " 2>&1")
  return output
end

-- A directory with the CA under the name by which OpenSSL looks for it: the hash of its subject.
local function make_hashed_directory(ca)
  local directory = make_directory()
  local hash = run("openssl x509 -noout -hash -in " .. interpreter.quote(ca)):match "^%x+"
  files.write(directory .. "/" .. assert(hash, "openssl gave no hash") .. ".0", files.read(ca))
  return directory
end

setup(function()
  stub = stub_client.share()
  made_paths = {}
end)

teardown(function()
  stub:stop()
  for _, path in ipairs(made_paths) do os.execute("rm -rf " .. interpreter.quote(path)) end
end)

before_each(function() stub:reset() end)

-- Each row is a listener with a bad certificate, and the hint that the message must contain.
local BAD_CERTIFICATES = {
  { "from an unknown CA", "unknown_ca", "no CA in %s has signed it: is it the CA of this cluster?" },
  { "for another host", "wrong_host", "set host to a name in the certificate" },
  { "that has expired", "expired", "have it renewed, or check this machine's clock" },
}

describe("a certificate #short", function()
  it("is accepted if the given CA has signed it", function() accept() end)

  for _, case in ipairs(BAD_CERTIFICATES) do
    local what, listener, hint = case[1], case[2], case[3]

    it(what .. " is refused with a hint, and no request is sent", function()
      local port = stub.ports[listener]
      refuse({ port = port }, "localhost:" .. port, hint:format(stub.ca))
      assert.same({}, stub:requests())
    end)

    it(what .. " is accepted with insecure = true", function()
      accept { port = stub.ports[listener], insecure = true, cacert = false }
      assert.equal(listener, stub:last().listener)
    end)
  end

  it("of a private CA is refused if no CA is given, and the message says how to pass it", function()
    refuse({ cacert = false }, "pass cacert = the cluster's CA")
  end)

  it("is verified again by a client that is not insecure, after one that is", function()
    accept { port = stub.ports.unknown_ca, insecure = true }
    refuse { port = stub.ports.unknown_ca }
  end)

  it("is verified over HTTP/2 as well", function()
    refuse({ port = stub.ports.unknown_ca, http_version = "2" }, stub.ca)
  end)
end)

describe("a TLS version", function()
  local HINT = "the server speaks no TLS version that tls_min allows"

  it("older than 1.2 is refused", function()
    refuse({ port = stub.ports.tls11 }, "localhost:" .. stub.ports.tls11, HINT)
  end)

  it("older than 1.2 is refused with insecure = true, too", function()
    refuse({ port = stub.ports.tls11, insecure = true }, HINT)
  end)

  it("of 1.2 is accepted by default, and with tls_min = \"1.2\"", function()
    for _, tls_min in ipairs { false, "1.2" } do
      accept { port = stub.ports.tls12, tls_min = tls_min }
      assert.equal("1.2", stub:last().tls)
    end
  end)

  it("of 1.2 is refused with tls_min = \"1.3\"", function()
    refuse({ port = stub.ports.tls12, tls_min = "1.3" }, HINT)
  end)

  it("of 1.3 is used with tls_min = \"1.3\"", function()
    accept { tls_min = "1.3" }
    assert.equal("1.3", stub:last().tls)
  end)
end)

describe("a pinned public key", function()
  it("that is the server's is accepted", function()
    accept { pinned_public_key = stub.pin }
  end)

  it("that is the server's does not replace a trusted CA", function()
    refuse { pinned_public_key = stub.pin, cacert = stub.other_ca }
  end)

  it("that is not the server's is refused, and the message says what to change", function()
    refuse({ pinned_public_key = WRONG_PIN }, "is not the pinned one", "change pinned_public_key")
    assert.same({}, stub:requests())
  end)

  it("is checked with insecure = true as well", function()
    refuse({ pinned_public_key = WRONG_PIN, insecure = true }, "change pinned_public_key")
    accept { pinned_public_key = stub.pin, insecure = true, cacert = false }
  end)
end)

describe("a client certificate", function()
  local function with_certificate(changes)
    local all = { port = stub.ports.client_cert, cert = stub.client_cert, key = stub.client_key }
    for name, value in pairs(changes or {}) do all[name] = value end
    return all
  end

  it("is sent if the server asks for one", function()
    accept(with_certificate())
    assert.equal("stub client", stub:last().client_cert)
  end)

  it("is not sent to a server that does not ask", function()
    accept(with_certificate { port = stub.port })
    assert.is_false(stub:last().client_cert)
  end)

  it("that is missing is refused by the server, and the message says what to pass", function()
    refuse({ port = stub.ports.client_cert }, "pass cert and key")
  end)

  it("may have its key in the same file", function()
    local both = make_path(files.read(stub.client_cert) .. files.read(stub.client_key))
    accept(with_certificate { cert = both, key = false })
    assert.equal("stub client", stub:last().client_cert)
  end)

  it("may have an encrypted key", function()
    accept(with_certificate { key = stub.client_encrypted_key, key_password = stub.client_key_password })
    assert.equal("stub client", stub:last().client_cert)
  end)

  it("with a wrong key_password is refused", function()
    refuse(with_certificate { key = stub.client_encrypted_key, key_password = "not this one" },
      stub.client_encrypted_key, "a wrong key_password")
  end)

  it("with an encrypted key and no key_password is refused without a prompt", function()
    local ok, _, output = interpreter.run {
      code = [[
        local icptoken = require "icptoken"
        local port, cacert, cert, key = arg[1], arg[2], arg[3], arg[4]
        local _, message, code = icptoken.fetch { host = "localhost", port = tonumber(port), cacert = cacert,
          anonymous = true, cert = cert, key = key, timeout = 100, connect_timeout = 100 }
        print(code, message)
      ]],
      args = { tostring(stub.ports.client_cert), stub.ca, stub.client_cert, stub.client_encrypted_key },
    }
    assert.is_true(ok, output)
    assert.matches("^tls\tcannot use the client certificate", output)
    assert.not_matches("pass phrase", output, 1, true)
  end)

  it("with the key of another is refused", function()
    refuse(with_certificate { key = stub.server_key }, stub.server_key, "they do not belong together")
  end)

  it("that is not a certificate is refused", function()
    refuse(with_certificate { cert = stub.id_token_file }, stub.id_token_file, "a wrong format")
  end)
end)

describe("a file that cannot be read is named in the message", function()
  local MISSING = "/nonexistent/icptoken.pem"

  for _, name in ipairs { "cacert", "capath", "cert", "key" } do
    it("as " .. name, function()
      local changes = { cert = name == "key" and stub.client_cert, [name] = MISSING }
      if name == "capath" then changes.cacert = false end
      refuse(changes, "cannot read", MISSING)
      assert.same({}, stub:requests())
    end)
  end

  for path, words in pairs { [MISSING] = "cannot read the CA file %s: there is no such file",
    ["/etc/passwd/ca.pem"] = "cannot read the CA file %s: its path goes through a file that is no directory" } do
    it("as a cacert, and the message says why: " .. path, function()
      refuse({ cacert = path }, words:format(path))
    end)
  end

  it("as a cacert that contains no certificate", function()
    refuse({ cacert = stub.id_token_file },
      ("the CA file %s contains no certificate in PEM format; it must"):format(stub.id_token_file))
  end)

  it("as a cacert that is a directory", function()
    refuse({ cacert = stub.dir }, stub.dir .. " is a directory; for a directory, use the option capath")
  end)
end)

describe("a directory of CAs", function()
  it("is searched by the hash of the subject", function()
    accept { cacert = false, capath = make_hashed_directory(stub.ca) }
  end)

  it("without the server's CA is refused, and the message names it", function()
    local directory = make_hashed_directory(stub.other_ca)
    refuse({ cacert = false, capath = directory }, directory, "hashed")
  end)

  it("is used beside cacert", function()
    accept { cacert = stub.other_ca, capath = make_hashed_directory(stub.ca) }
  end)
end)

describe("a CA file that changes on disk", function()
  it("takes effect at the next connection of the same client", function()
    local path = make_path(files.read(stub.ca))
    local client = icptoken.new(options { cacert = path })
    stub:plan { keep_alive = false }
    assert(client:fetch())

    files.write(path, files.read(stub.other_ca))
    local token, message, code = client:fetch()
    assert.is_nil(token)
    assert.equal("tls", code)
    assert.matches(path, message, 1, true)

    files.write(path, files.read(stub.ca))
    assert(client:fetch())
    client:close()
  end)
end)

local FETCH = [[
  local icptoken = require "icptoken"
  local options = { host = "localhost", port = tonumber(arg[1]), id_token_file = arg[2], timeout = 100,
    connect_timeout = 100, retries = 0 }
  for i = 3, #arg, 2 do options[arg[i] ] = arg[i + 1] == "yes" or arg[i + 1] end
  local token, message, code = icptoken.fetch(options)
  print(token and "token" or code, message)
]]

-- Fetches in a child with these environment variables; further arguments are options. Returns what it printed.
local function fetch_in_child(env, preload, ...)
  local ok, _, output = interpreter.run { code = FETCH, args = { tostring(stub.port), stub.id_token_file, ... },
    env = env, preload = preload }
  assert.is_true(ok, output)
  return output
end

-- Options that trust only a CA that is not the stub's.
local function each_own_trust(check)
  check("cacert", stub.other_ca)
  check("capath", make_hashed_directory(stub.other_ca))
end

-- A child finds a file and a directory in place of those that its libcurl trusts by default.
describe("the system's store", function()
  local function fetch_with_store(file_ca, directory_ca, ...)
    local file, directory = testkit.default_trust()
    local rules = {}
    if file then rules[#rules + 1] = file .. "=" .. file_ca end
    if directory then rules[#rules + 1] = directory .. "=" .. make_hashed_directory(directory_ca) end
    return fetch_in_child({ MOVED_STORE = table.concat(rules, ":") }, "build/moved_store.so", ...)
  end

  it("is trusted if neither cacert nor capath is given, both its file and its directory", function()
    assert.matches("^token", fetch_with_store(stub.ca, stub.other_ca))
    assert.matches("^token", fetch_with_store(stub.other_ca, stub.ca))
    assert.matches("^tls\t.*pass cacert", fetch_with_store(stub.other_ca, stub.other_ca))
  end)

  it("is not trusted beside a cacert or a capath", function()
    each_own_trust(function(name, path)
      local output = fetch_with_store(stub.ca, stub.ca, name, path)
      assert.matches("^tls\t", output)
      assert.matches("no CA in " .. path, output, 1, true)
      assert.matches("^token", fetch_with_store(stub.ca, stub.ca, name, path, "insecure", "yes"))
    end)
  end)

  -- the stub's main port serves as the proxy: its TLS matters, its answer to CONNECT does not
  it("verifies the certificate of an https proxy, whatever cacert is", function()
    local proxy = "https://localhost:" .. stub.port
    assert.matches("^tls\t.*the proxy on the way", fetch_with_store(stub.other_ca, stub.other_ca, "cacert", stub.ca,
      "proxy", proxy))
    assert.matches("^proxy\t.*did not open a tunnel", fetch_with_store(stub.ca, stub.ca, "cacert", stub.other_ca,
      "proxy", proxy))
  end)
end)

describe("a CA in the variables that OpenSSL reads", function()
  it("is not trusted beside a cacert or a capath", function()
    local variables = { SSL_CERT_FILE = stub.ca, SSL_CERT_DIR = make_hashed_directory(stub.ca) }
    for name, value in pairs(variables) do
      local verify = "openssl verify " .. interpreter.quote(stub.ca)
      assert.not_matches(": OK", run(verify), 1, true)
      assert.matches(": OK", run(name .. "=" .. interpreter.quote(value) .. " " .. verify), 1, true)
    end
    each_own_trust(function(name, path)
      local output = fetch_in_child(variables, nil, name, path)
      assert.matches("^tls\t", output)
      assert.matches("no CA in " .. path, output, 1, true)
    end)
  end)
end)
