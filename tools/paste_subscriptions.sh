: "Paste all this into another terminal, in the same directory. The receiver becomes the webhook of one customer. Your own"
: "may be one, too: any on this machine, by http://127.0.0.1 or localhost."
SUBSCRIBED=$(curl -sS -u ":$TRIGGERS_API_KEY" "$TRIGGERS_URL/subscriptions" -H 'Content-Type: application/json' -d '{"target_url": "RECEIVER/HOOK", "event_types": ["invoice.*"], "tenant": "customer-42", "name": "CRM"}'); echo "$SUBSCRIBED"
SUBSCRIPTION_ID=$(expr "$SUBSCRIBED" : '.*\(sub_[0-9a-f]*\)')

: "It gets a copy of each invoice of that customer, and of nothing else:"
make send TYPE=invoice.paid PAYLOAD='{"order_id": "1"}' TENANT=customer-42 SUBJECT=order-1
make send TYPE=order.created PAYLOAD='{"order_id": "2"}' TENANT=customer-42 SUBJECT=order-2
curl -sS RECEIVER
make show SUBJECT=order-1
make show SUBJECT=order-2

: "The next two pushes fail, and the third attempt delivers the copy a few seconds later:"
curl -sS -X POST 'RECEIVER/fail?status=503&times=2'
make send TYPE=invoice.paid PAYLOAD='{"order_id": "3"}' TENANT=customer-42 SUBJECT=order-3
sleep 5; curl -sS RECEIVER

: "The receiver refuses a copy, which fails for good. Recover queues it again: it is pushed a minute after it failed."
curl -sS -X POST 'RECEIVER/fail?status=422&times=1'
make send TYPE=invoice.paid PAYLOAD='{"order_id": "4"}' TENANT=customer-42 SUBJECT=order-4
make missed SUBSCRIPTION_ID=$SUBSCRIPTION_ID
make recover SUBSCRIPTION_ID=$SUBSCRIPTION_ID GO=1

: "Open the link that this prints: the page on which that customer manages its webhooks."
make token TENANT=customer-42

: "In parentheses, since the next make run would take these variables, too: with them make dlq, and in another shell"
: ".venv/bin/chalice local --port 8001 and others, use this AWS. What fails at a webhook of a customer has no message there."
(
VARIABLES
make dlq
