import java.nio.file.Files;
import java.nio.file.Path;

public class Main {
    public static void main(String[] arguments) throws Exception {
        Path file = Files.writeString(Path.of("/srv/from-java"), "text\n");
        Files.setAttribute(file, "unix:uid", 21);
    }
}
