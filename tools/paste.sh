: "Paste all this into another terminal, in the same directory. Two events, and what is undelivered:"
curl -sS -w "\n" -u ":$TRIGGERS_API_KEY" "$TRIGGERS_URL/events" -H 'Content-Type: application/json' -d '{"event_type": "order.created", "payload": {"order_id": "1"}}'
make send TYPE=order.created PAYLOAD='{"order_id": "2"}'
curl -sS -w "\n" -u ":$TRIGGERS_API_KEY" "$TRIGGERS_URL/inbox"

: "The next two pushes fail, and the third attempt delivers the event a few seconds later:"
curl -sS -X POST 'RECEIVER/fail?status=503&times=2'
make send TYPE=order.created PAYLOAD='{"order_id": "3"}'
sleep 5; curl -sS RECEIVER

: "Pushes fail for good until the last line: the event is a dead letter, is found by its subject, and is in the inbox."
curl -sS -X POST 'RECEIVER/fail?status=422&times=1000'
make send TYPE=order.created PAYLOAD='{"order_id": "4"}' SUBJECT=order-4
make show SUBJECT=order-4
curl -sS -w "\n" -u ":$TRIGGERS_API_KEY" "$TRIGGERS_URL/inbox"
curl -sS -X POST 'RECEIVER/fail?times=0'

: "A consumer leases an event from the inbox, and acknowledges it, so that it is delivered:"
LEASED=$(curl -sS -u ":$TRIGGERS_API_KEY" "$TRIGGERS_URL/inbox/lease" -H 'Content-Type: application/json' -d '{"limit": 1}'); echo "$LEASED"
LEASE_ID=$(expr "$LEASED" : '.*\(lse_[0-9a-f]*\)'); EVENT_ID=$(expr "$LEASED" : '.*\(evt_[0-9a-f]*\)')
test -z "$EVENT_ID" || curl -sS -w "\n" -u ":$TRIGGERS_API_KEY" "$TRIGGERS_URL/inbox/acknowledge" -H 'Content-Type: application/json' -d '{"lease_id": "'$LEASE_ID'", "event_ids": ["'$EVENT_ID'"]}'

: "The receiver gets copies of the invoices of one customer. Your own may subscribe, too: any on this machine, by"
: "http://127.0.0.1 or localhost, and with SUBSCRIPTION_HOSTS='*,127.0.0.1,localhost' make run every public https URL."
curl -sS -w "\n" -u ":$TRIGGERS_API_KEY" "$TRIGGERS_URL/subscriptions" -H 'Content-Type: application/json' -d '{"target_url": "RECEIVER/HOOK", "event_types": ["invoice.*"], "tenant": "customer-42"}'
make send TYPE=invoice.paid PAYLOAD='{"order_id": "5"}' TENANT=customer-42
curl -sS RECEIVER

: "Open the link that this prints: the page on which that customer manages its webhooks."
make token TENANT=customer-42

: "In parentheses, since the next make run would take these variables, too: with them make dlq, and in another shell"
: ".venv/bin/chalice local --port 8001 and others, use this AWS."
(
VARIABLES
make dlq

: "RECEIVER refused order 4: the dead letter, although a consumer acknowledged the event since. Its message stays until"
: "make redrive moves it to the work queue, whose worker drops it: nothing is left to push."
make redrive
make dlq
