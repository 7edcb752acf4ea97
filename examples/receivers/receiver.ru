# Answers 204 to pushes that are genuine, 401 to others. Run it:
# gem install rack puma, then SECRET=whsec_... puma -b tcp://127.0.0.1:9000 receiver.ru
require "openssl"
require "rack"

# Tells whether a body was signed with the secret within the last five minutes.
def genuine?(secret, env, body)
  timestamp = env["HTTP_WEBHOOK_TIMESTAMP"].to_s
  return false if (Time.now.to_i - timestamp.to_i).abs > 300

  key = secret.delete_prefix("whsec_").unpack1("m")
  signed = "#{env["HTTP_WEBHOOK_ID"]}.#{timestamp}.#{body}"
  expected = "v1,#{[OpenSSL::HMAC.digest("SHA256", key, signed)].pack("m0")}"
  signatures = env["HTTP_WEBHOOK_SIGNATURE"].to_s.split
  signatures.any? { |signature| Rack::Utils.secure_compare(signature, expected) }
end

run(lambda do |env|
  body = env["rack.input"].read
  next [401, {}, []] unless genuine?(ENV.fetch("SECRET"), env, body)

  puts body
  [204, {}, []]
end)
