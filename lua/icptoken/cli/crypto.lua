-- Digests, signatures and certificate chains, by OpenSSL: its Lua binding, luaossl, where it is installed, else the
-- program openssl. Secrets go to the program on standard input, never as arguments.

local base64 = require "icptoken.cli.base64"
local failure = require "icptoken.cli.failure"
local files = require "icptoken.cli.files"
local process = require "icptoken.cli.process"
local scratch = require "icptoken.cli.scratch"

local crypto = {}

-- The digest of a signature, by its name in the header of a token.
local DIGESTS = { ["256"] = "sha256", ["384"] = "sha384", ["512"] = "sha512" }

-- Why a chain is invalid, by the error number of X509_verify_cert: those that users encounter.
local CHAIN_ERRORS = {
  [2] = "the certificate that issued it is not in the bundle", [9] = "a certificate is not yet valid",
  [10] = "a certificate has expired", [18] = "it is self-signed and not in the bundle",
  [19] = "its root is not in the bundle", [20] = "the certificate that issued it is not in the bundle",
  [21] = "the certificate that issued it is not in the bundle", [24] = "a certificate that issued another is no CA",
  [79] = "a certificate that issued another is no CA",
}

--- "-----BEGIN label-----" and so on.
function crypto.encode_pem(label, bytes)
  local lines = base64.encode(bytes):gsub(("."):rep(64), "%0\n"):gsub("\n$", "")
  return ("-----BEGIN %s-----\n%s\n-----END %s-----\n"):format(label, lines, label)
end

-- luaossl's module, or nil. $ICPTOKEN_OPENSSL=program leaves it out.
local function load_binding(name)
  if os.getenv "ICPTOKEN_OPENSSL" == "program" then return nil end
  local ok, module = pcall(require, "openssl." .. name)
  return ok and module or nil
end

local function run_openssl(words, input)
  table.insert(words, 1, "openssl")
  return process.run(words, input, { errors = "output" })
end

--- SHA-256 of bytes.
function crypto.sha256(bytes)
  local digest = load_binding "digest"
  if digest then return digest.new("sha256"):final(bytes) end
  local status, hash = run_openssl({ "dgst", "-sha256", "-binary" }, bytes)
  if status ~= 0 or #hash ~= 32 then failure.fail("process", "openssl dgst failed with the exit status %d", status) end
  return hash
end

local function verify_by_program(pem, hash, message, signature)
  return scratch.with_directory(function(directory)
    files.replace(directory .. "/key.pem", pem)
    files.replace(directory .. "/signature", signature)
    return (run_openssl({ "dgst", "-" .. hash, "-verify", directory .. "/key.pem", "-signature",
      directory .. "/signature" }, message)) == 0
  end)
end

--- Whether a signature is that of a message by a public key (SubjectPublicKeyInfo in DER): PKCS #1 v1.5 of an RSA key,
-- ECDSA in DER of an EC key. bits: "256", "384" or "512", of SHA-2.
function crypto.verify(spki, bits, message, signature)
  local pem, hash = crypto.encode_pem("PUBLIC KEY", spki), DIGESTS[bits]
  local pkey, digest = load_binding "pkey", load_binding "digest"
  if not pkey or not digest then return verify_by_program(pem, hash, message, signature) end
  -- luaossl raises an error for a malformed signature
  local ok, is_valid = pcall(function() return pkey.new(pem):verify(signature, digest.new(hash):update(message)) end)
  return ok and is_valid == true
end

--- Whether a chain of certificates (DER, the leaf first) leads to one of the bundle (PEM), now. Each certificate of the
-- bundle is an anchor, whether it is a root or not, as for the registry. Returns true, or false and the reason.
function crypto.verify_chain(bundle, chain)
  return scratch.with_directory(function(directory)
    local others = {}
    for i = 2, #chain do others[i - 1] = crypto.encode_pem("CERTIFICATE", chain[i]) end
    files.replace(directory .. "/bundle.pem", bundle)
    files.replace(directory .. "/others.pem", table.concat(others))
    local words = { "verify", "-partial_chain", "-auth_level", "1", "-trusted",
      directory .. "/bundle.pem" }
    if #others > 0 then
      words[#words + 1], words[#words + 2] = "-untrusted", directory .. "/others.pem"
    end
    local status, text = run_openssl(words, crypto.encode_pem("CERTIFICATE", chain[1]))
    if status == 0 then return true end
    local number = tonumber(text:match "error (%d+) at")
    return false, CHAIN_ERRORS[number] or number and ("OpenSSL's verify error %d"):format(number)
      or "a certificate is malformed"
  end)
end

return crypto
