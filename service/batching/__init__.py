"""Who runs next, together with whom, and where: every inference and every decoding of the service passes here."""
