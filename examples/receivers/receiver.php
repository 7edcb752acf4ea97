<?php
// Answers 204 to pushes that are genuine, 401 to others. Run it:
// SECRET=whsec_... php -S 127.0.0.1:9000 receiver.php

// Tells whether a body was signed with the secret within the last five minutes.
function genuine(string $secret, string $body): bool
{
    $id = $_SERVER["HTTP_WEBHOOK_ID"] ?? "";
    $timestamp = $_SERVER["HTTP_WEBHOOK_TIMESTAMP"] ?? "";
    if (abs(time() - (int) $timestamp) > 300) {
        return false;
    }
    $key = base64_decode(substr($secret, strlen("whsec_")));
    $expected = "v1," . base64_encode(hash_hmac("sha256", "$id.$timestamp.$body", $key, true));
    foreach (explode(" ", $_SERVER["HTTP_WEBHOOK_SIGNATURE"] ?? "") as $signature) {
        if (hash_equals($expected, $signature)) {
            return true;
        }
    }
    return false;
}

$body = file_get_contents("php://input");
if (!genuine(getenv("SECRET"), $body)) {
    http_response_code(401);
    exit;
}
error_log($body);
http_response_code(204);
