"""The daemon of one site: settings, store, audit, control; network, ledger and trainer put together."""
