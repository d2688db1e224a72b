# frozen_string_literal: true

run(lambda do |_env|
  [200, { "content-length" => "16", "x-worker" => Process.pid.to_s }, ["hello from Ruby\n"]]
end)
