module.exports = () => "from the library";
