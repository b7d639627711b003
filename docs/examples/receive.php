<?php
// Receives dispatchd's webhooks. PHP 7.4 or newer, nothing to install.
//
//     WEBHOOK_SECRET=whsec_... SEEN_DIR=/var/lib/receiver php -S 127.0.0.1:8000 receive.php

const TOLERANCE = 300; // seconds that the timestamp may be away from our clock

// verify returns whether the body was signed with our key, not long ago.
function verify(string $key, string $id, string $stamp, string $signatures, string $body): bool
{
    if (!ctype_digit($stamp) || abs(time() - (int) $stamp) > TOLERANCE) {
        return false;
    }
    // The bytes as they came: JSON that was parsed and written anew has another signature.
    $want = 'v1,' . base64_encode(hash_hmac('sha256', "$id.$stamp.$body", $key, true));
    // There are two signatures while the secret is being changed: one must fit.
    foreach (explode(' ', $signatures) as $one) {
        if (hash_equals($want, $one)) {
            return true;
        }
    }
    return false;
}

$key = base64_decode(substr(getenv('WEBHOOK_SECRET'), strlen('whsec_')), true);
$id = $_SERVER['HTTP_WEBHOOK_ID'] ?? '';
$body = file_get_contents('php://input');
if (!verify($key, $id, $_SERVER['HTTP_WEBHOOK_TIMESTAMP'] ?? '', $_SERVER['HTTP_WEBHOOK_SIGNATURE'] ?? '', $body)) {
    http_response_code(401);
    exit;
}
// In real life: a table with a unique key. Making the file fails when the id was here before.
if (@fopen(getenv('SEEN_DIR') . '/' . hash('sha256', $id), 'x') !== false) {
    $event = json_decode($body, true);
    // Only put it into a queue here: answer first, work afterwards.
    file_put_contents('php://stdout', $event['type'] . ' ' . ($event['orcid'] ?? '') . "\n");
}
http_response_code(204);
