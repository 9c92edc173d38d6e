"stub"
